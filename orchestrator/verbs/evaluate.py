"""``selmix evaluate TABLE``: a metric from labels and class scores alone, without a model or a sweep."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.documents import SCHEMA_VERSION
from orchestrator.errors import PreflightError, UsageError
from orchestrator.messages import closest
from orchestrator.records.types import Figure
from orchestrator.results.rows import Outcome
from orchestrator.table import difference, estimate, paragraph, percent, sentence

WEAKEST = 5


@dataclass(frozen=True)
class ClassRow:
    """One class: samples, and its recall with exact 95 % limits."""

    name: str
    samples: int
    recall: Figure


@dataclass(frozen=True)
class Correction:
    """Post-hoc biases, fitted and judged on different samples, against the scores as they are.

    Attributes:
        value: of the corrected predictions. difference: corrected minus plain, higher is better.
        outcome: of that. biases: fitted on all samples, to be added to the scores.
    """

    value: float
    difference: Figure
    outcome: Outcome
    biases: list[float]


@dataclass(frozen=True, kw_only=True)
class EvaluateDocument:
    """A metric of a table.

    Attributes:
        table: its path. rows, num_classes, groups: of it.
        is_resolved: True if the interval is no wider than 5 percentage points to a side.
        metric, value: with its interval. half_width: of that.
        classes: the weakest first.
        samples_needed: per class, for a half-width of 5 percentage points; None where no reachable number does it.
        correction: None where none was tried.
    """

    schema_version: int = SCHEMA_VERSION
    table: str
    rows: int
    num_classes: int
    groups: list[str]
    is_resolved: bool
    metric: str
    value: Figure
    classes: list[ClassRow]
    half_width: float
    samples_needed: int | None
    correction: Correction | None


def evaluate_table(
    path: Path, objective: str, train_counts: list[int] | None, cvar_fraction: float
) -> EvaluateDocument:
    """The assessment of a table as a document.

    Args:
        path: of the table.
        objective: a metric, or an objective that is judged by one.
        train_counts: training samples of each class; None: not given.
        cvar_fraction: of ``cvar_recall``.
    Raises:
        UsageError: an objective or definition that does not fit.
        PreflightError: a table that cannot be read or used.
    """
    import torch

    from selmix.baselines.score_table import assess
    from selmix.data.tables import read_scores
    from selmix.definitions import Definitions
    from selmix.metrics import METRICS, MetricContext
    from selmix.objectives import metric_of_objective

    try:
        metric = METRICS[metric_of_objective(objective)]
    except ValueError as error:
        raise UsageError(f"--objective: unknown {objective!r}; {closest(objective, METRICS)}") from error
    if metric.needs is not None:
        raise UsageError(
            f"--objective: {metric.key} needs numbers of its own, which only a sweep file can give"
        )
    if metric.by_train_counts and train_counts is None:
        raise UsageError(
            f"--objective: {metric.key} follows the training counts; give --train-counts N,N,..."
        )
    try:
        table = read_scores(path)
    except ValueError as error:
        raise PreflightError(str(error)) from error
    classes = len(table.class_names)
    definitions = Definitions(cvar_fraction)
    problems = definitions.problems(classes)
    if train_counts is not None and len(train_counts) != classes:
        problems.append(f"--train-counts: must be {classes} numbers, one a class, got {len(train_counts)}")
    if problems:
        raise UsageError("\n".join(problems).replace("cvar_fraction", "--cvar-fraction"))
    if metric.of_cells is not None and table.groups is None:
        raise UsageError(f"--objective: {metric.key} needs groups; give {path} a column group")
    context = MetricContext(
        torch.tensor(train_counts or [1] * classes), definitions, num_groups=len(table.group_names)
    )
    try:
        found = assess(table.labels, table.scores, metric.key, context, table.class_names, table.groups)
    except ValueError as error:
        raise PreflightError(f"{path}: {error}") from error
    correction = None
    if (tried := found.correction) is not None:
        gap = Figure(**asdict(tried.difference))
        correction = Correction(tried.value, gap, tried.outcome, list(tried.biases))
    return EvaluateDocument(
        table=str(path),
        rows=len(table.labels),
        num_classes=classes,
        groups=list(table.group_names),
        is_resolved=found.is_resolved,
        metric=found.metric,
        value=Figure(**asdict(found.value)),
        classes=[ClassRow(row.name, row.samples, Figure(**asdict(row.recall))) for row in found.classes],
        half_width=found.half_width,
        samples_needed=found.samples_needed,
        correction=correction,
    )


def evaluation_text(document: EvaluateDocument, width: int | None) -> str:
    """The assessment on one screen; its first line is the answer."""
    smallest = min(row.samples for row in document.classes)
    groups = f" in {len(document.groups)} groups" if document.groups else ""
    half = f"{percent(document.half_width)} pp to a side"
    if document.is_resolved:
        resolved = f"yes: known to {half}"
    else:
        needed = document.samples_needed
        more = f"about {needed} samples per class would give 5" if needed else "more samples are needed for 5"
        resolved = f"no: known to {half} with {smallest} samples in the smallest class; {more}"
    weakest = "; ".join(
        f"{row.name} {estimate(row.recall)} (n {row.samples})" for row in document.classes[:WEAKEST]
    )
    correction = document.correction
    if correction is None:
        tried = "not tried: too many classes for a search, or no metric of predictions"
    else:
        tried = (
            f"biases on the scores, fitted and judged on different samples: {percent(correction.value)}, "
            f"{difference(correction.difference)} pp: {correction.outcome}"
        )
    return "\n".join([
        sentence(
            f"{document.metric} {estimate(document.value)} %, on {document.rows} samples of {document.num_classes} "
            f"classes{groups}", width,
        ),
        paragraph("resolved", resolved, width),
        paragraph("weakest", f"recall of {weakest}", width),
        paragraph("post hoc", tried, width),
    ])  # fmt: skip
