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

MAX_CLASSES_SHOWN = 5


@dataclass(frozen=True)
class ClassRow:
    """One class of the table.

    Attributes:
        name: name of the class.
        samples: number of its samples.
        recall: recall with exact 95 % confidence bounds (Clopper-Pearson).
    """

    name: str
    samples: int
    recall: Figure


@dataclass(frozen=True)
class Correction:
    """Post-hoc biases on the scores, fitted and judged on different samples, against the scores as they are.

    Attributes:
        value: metric of the corrected predictions.
        difference: corrected minus plain, higher is better.
        outcome: outcome of that comparison.
        biases: biases per class, fitted on all samples, to be added to the scores.
    """

    value: float
    difference: Figure
    outcome: Outcome
    biases: list[float]


@dataclass(frozen=True, kw_only=True)
class EvaluateDocument:
    """A metric of a table.

    Attributes:
        schema_version: version of the document.
        table: path of the table.
        rows: number of samples.
        num_classes: number of classes.
        groups: names of the groups; empty where the table has none.
        is_resolved: True if the half-width of the interval is at most 5 percentage points.
        metric: the metric.
        value: value of the metric with its interval.
        classes: classes, the weakest first.
        half_width: half the width of the interval.
        samples_needed: samples per class for a half-width of 5 percentage points; None where no reachable number is
            enough.
        correction: the post-hoc correction; None where none was tried.
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
    """Evaluate a metric on a table of labels and class scores.

    Args:
        path: Parquet table.
        objective: a metric, an objective that a metric decides, or ``module:function`` of the user's own.
        train_counts: training samples per class, for metrics that need them.
        cvar_fraction: share of the classes that ``cvar_recall`` averages, the weakest first.
    Raises:
        UsageError: an objective or definition that does not fit the table.
        PreflightError: the table cannot be read or used.
    """
    import torch

    from selmix.baselines.score_table import assess
    from selmix.data.tables import read_scores
    from selmix.definitions import Definitions
    from selmix.metrics import METRICS, MetricContext, metric_named
    from selmix.objectives import metric_of_objective
    from selmix.own_metrics import own_function
    from selmix.user_code import is_reference

    try:
        metric = metric_named(metric_of_objective(objective))
    except ValueError as error:
        if is_reference(objective):
            raise UsageError(f"--objective: {objective}: {error}") from error
        raise UsageError(f"--objective: unknown {objective!r}; {closest(objective, METRICS)}") from error
    if metric.needs is not None:
        raise UsageError(
            f"--objective: {metric.key} needs numbers of its own ({metric.needs}), which only a sweep file can give"
        )
    if metric.by_train_counts and train_counts is None:
        raise UsageError(
            f"--objective: {metric.key} depends on the training counts; give --train-counts N,N,..."
        )
    try:
        table = read_scores(path)
    except ValueError as error:
        raise PreflightError(str(error)) from error
    # All problems of the flags at once, as with a sweep file.
    classes = len(table.class_names)
    definitions = Definitions(cvar_fraction)
    problems = definitions.problems(classes)
    if train_counts is not None and len(train_counts) != classes:
        problems.append(f"--train-counts: must be {classes} numbers, one per class, got {len(train_counts)}")
    # Definitions names the key of a sweep file; here the user typed a flag.
    if problems:
        raise UsageError("\n".join(problems).replace("cvar_fraction", "--cvar-fraction"))
    if metric.of_cells is not None and table.groups is None:
        raise UsageError(f"--objective: {metric.key} needs groups; give {path} a column group")
    # Equal counts where none are given: the metrics that depend on them were refused above.
    context = MetricContext(
        torch.tensor(train_counts or [1] * classes), definitions, num_groups=len(table.group_names)
    )
    if is_reference(metric.key):
        try:
            refused = own_function(metric.key).problems(classes, context)
        except ValueError as error:
            refused = [str(error)]
        if refused:
            raise UsageError(f"--objective: {refused[0]}")
    try:
        assessment = assess(table.labels, table.scores, metric.key, context, table.class_names, table.groups)
    except ValueError as error:
        # A class without samples, or scores that are not finite: found only in the content of the table.
        raise PreflightError(f"{path}: {error}") from error
    correction = None
    if (fitted := assessment.correction) is not None:
        gap = Figure(**asdict(fitted.difference))
        correction = Correction(fitted.value, gap, fitted.outcome, list(fitted.biases))
    return EvaluateDocument(
        table=str(path),
        rows=len(table.labels),
        num_classes=classes,
        groups=list(table.group_names),
        is_resolved=assessment.is_resolved,
        metric=assessment.metric,
        value=Figure(**asdict(assessment.value)),
        classes=[ClassRow(row.name, row.samples, Figure(**asdict(row.recall))) for row in assessment.classes],
        half_width=assessment.half_width,
        samples_needed=assessment.samples_needed,
        correction=correction,
    )


def evaluation_text(document: EvaluateDocument, width: int | None) -> str:
    """Text of an evaluation on one screen; its first line is the answer."""
    smallest = min(row.samples for row in document.classes)
    groups = f" in {len(document.groups)} groups" if document.groups else ""
    half = f"the interval is {percent(document.half_width)} pp to a side"
    if document.is_resolved:
        resolved = f"yes: {half}, no more than 5 pp"
    else:
        needed = document.samples_needed
        more = f"about {needed} per class would do" if needed else "more are needed"
        resolved = f"no: {half}, more than 5 pp, with {smallest} samples in the smallest class; {more}"
    weakest = "; ".join(
        f"{row.name} {estimate(row.recall)} (n {row.samples})" for row in document.classes[:MAX_CLASSES_SHOWN]
    )
    correction = document.correction
    if correction is None:
        post_hoc = (
            "not tried: too many classes for the search, one sample of each, or a metric of confidences"
        )
    else:
        post_hoc = (
            f"a bias per class on the scores, which costs no training, gives {percent(correction.value)} %, "
            f"{difference(correction.difference)} pp: {correction.outcome}; fitted and evaluated on different samples"
        )
    return "\n".join([
        sentence(
            f"{document.metric} {estimate(document.value)} % (95 % interval), on {document.rows} samples of "
            f"{document.num_classes} classes{groups}", width,
        ),
        paragraph("resolved", resolved, width),
        paragraph("weakest", f"recall in %, each class with its own interval: class {weakest}", width),
        paragraph("post hoc", post_hoc, width),
    ])  # fmt: skip
