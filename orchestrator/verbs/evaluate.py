"""``selmix evaluate TABLE``: metrics from labels and class scores alone, without a model or a sweep."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.documents import SCHEMA_VERSION
from orchestrator.errors import PreflightError, UsageError
from orchestrator.messages import closest
from orchestrator.records.types import Figure
from orchestrator.results.rows import Outcome
from orchestrator.table import (
    Column,
    difference,
    estimate,
    number,
    paragraph,
    percent,
    sentence,
    table,
    unit_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from selmix.baselines.score_table import Assessment, ScoredSamples
    from selmix.baselines.score_table import ClassRow as FoundClassRow
    from selmix.baselines.score_table import Correction as FoundCorrection
    from selmix.data.score_tables import Columns, ScoreTable
    from selmix.definitions import Definitions
    from selmix.metrics import Metric, MetricContext, Predictions
    from selmix.score_correction import ScoreCorrection
    from selmix.score_kinds import ScoreKind
    from selmix.statistics.intervals import Estimate

MAX_CLASSES_SHOWN = 5
NOT_TRIED = "too many classes for the search, or one sample of each"
OF_SCORES = "the metric is one of the scores, which a correction of decisions leaves as they are"
NATS = " nats"
GOAL = 0.05
"""Half-width of an interval that counts as resolved, as :data:`selmix.baselines.score_table.GOAL`."""

GIVEN_BY = {"recall_weights": "--recall-weights W,W,...", "cost_matrix": "--cost-matrix ROWS"}
"""Definition that a metric cannot do without -> flag that gives it."""

FLAGS = {
    "cvar_fraction": "--cvar-fraction", "beta": "--beta", "recall_weights": "--recall-weights",
    "cost_matrix": "--cost-matrix",
}  # fmt: skip
"""Key of a sweep file -> flag of the same number here."""

OF_MEAN_RECALL = ("mean_recall", "balanced_accuracy", "balanced_error")
"""Metrics of which the change of the mean recall says nothing new."""


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
class MetricRow:
    """One metric of the table.

    Attributes:
        metric: the metric.
        value: its value; a fraction, but for the log loss (nats), the Brier score, MCC and kappa.
        low: lower end of its 95 % interval; None where there is no interval.
        high: upper end of it; likewise.
        corrected: value under the correction that was given; None without one, or where it changes no decision.
    """

    metric: str
    value: float
    low: float | None
    high: float | None
    corrected: float | None = None


@dataclass(frozen=True)
class Correction:
    """Post-hoc biases on the scores, against the scores as they are; fitted and judged on different samples, or given.

    Attributes:
        value: metric of the corrected predictions.
        difference: corrected minus plain, higher is better.
        outcome: outcome of that comparison.
        biases: biases per class, fitted on all samples, to be added to the scores; of probabilities to their
            logarithms.
        threshold: of one column of scores the threshold that they amount to, on the scale of the scores; None else.
        mean_recall: corrected minus plain mean recall.
        constant_class: class that every sample is given to; None where there is none.
        emptied: classes that no sample is given to.
        constant_folds: folds of which the correction fitted on the others gives every sample to one class.
        given: file that it was read from; None for one that was fitted here.
        fitted_here: True if it was fitted on the very samples that it is judged on.
        metric: metric that it is judged by.
    """

    value: float
    difference: Figure
    outcome: Outcome
    biases: list[float]
    threshold: float | None = None
    mean_recall: Figure | None = None
    constant_class: str | None = None
    emptied: list[str] = field(default_factory=list)
    constant_folds: int = 0
    given: str | None = None
    fitted_here: bool = False
    metric: str = ""


@dataclass(frozen=True, kw_only=True)
class EvaluateDocument:
    """A metric of a table, or all of them.

    Attributes:
        schema_version: version of the document.
        table: path of the table.
        rows: number of samples.
        num_classes: number of classes.
        groups: names of the groups; empty where the table has none.
        is_resolved: True if the half-width of the interval is at most 5 percentage points.
        metric: the metric; None for all.
        value: value of the metric with its interval; None for all metrics, and for one without an interval.
        classes: classes, the weakest first.
        half_width: half the width of the interval; None without one.
        samples_needed: samples per class for a half-width of 5 percentage points; None where no reachable number is
            enough.
        correction: the post-hoc correction; None where none was tried.
        not_tried: why none was; "" where one was, or where all metrics are asked for.
        scores: what the scores are: logits, log-probabilities or probabilities; None of predictions alone.
        scores_reason: how that is known.
        positive: positive class of one column of scores, or of two classes; None else.
        threshold: threshold on one column of scores that the predictions are made with; None else.
        metrics: the metric, or all that the table gives, each with its interval where there is one.
        left_out: metrics that the table does not give, and what they need.
        definitions: numbers that define metrics: ``cvar_fraction`` and ``beta``.
        recall_weights: weights of ``weighted_recall``, in the order of the classes; None without them.
        cost_matrix: costs of ``cost``, a row per true class; None without them.
        groups_left_out: why a column ``group`` that the table has gives no groups; empty where it has none, or does.
        saved: file that the correction was written to; None for none.
    """

    schema_version: int = SCHEMA_VERSION
    table: str
    rows: int
    num_classes: int
    groups: list[str]
    is_resolved: bool
    metric: str | None
    value: Figure | None
    classes: list[ClassRow]
    half_width: float | None
    samples_needed: int | None
    correction: Correction | None
    scores: Literal["logits", "log-probabilities", "probabilities"] | None = None
    scores_reason: str = ""
    positive: str | None = None
    threshold: float | None = None
    metrics: list[MetricRow] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    definitions: dict[str, float] = field(default_factory=dict)
    not_tried: str = ""
    saved: str | None = None
    recall_weights: list[float] | None = None
    cost_matrix: list[list[float]] | None = None
    groups_left_out: str = ""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Request about a table.

    Attributes:
        table: path of it.
        objective: a metric, or an objective that a metric decides; None for all metrics.
        columns: names of its columns and classes.
        scores: what the scores are; None to tell it by the rows.
        threshold: on one column of scores; None for that of even odds.
        train_counts: training samples per class, for metrics that need them; None for none.
        definitions: of the metrics with parameters.
        save: file to write the correction to; None for none.
        correction: file of a correction to judge in place of one that is searched; None for none.
    """

    table: Path
    objective: str | None
    columns: Columns
    scores: ScoreKind | None
    threshold: float | None
    train_counts: list[int] | None
    definitions: Definitions
    save: Path | None = None
    correction: Path | None = None


def evaluate_table(request: Request) -> EvaluateDocument:
    """Evaluate a metric, or all, on a table of labels and class scores or predictions.

    Raises:
        UsageError: options that do not go together or do not fit the table.
        PreflightError: the table, or the correction, cannot be read or used.
    """
    from selmix.data.score_tables import read_scores

    _check_options(request)
    metric = None if request.objective is None else _metric(request)
    given = None if request.correction is None else _read_correction(request.correction)
    try:
        found = read_scores(request.table, request.columns)
    except ValueError as error:
        raise PreflightError(str(error)) from error
    context = _context(request, found, metric)
    if found.predicted is not None:
        return _of_predictions(request, found, metric, context)
    return _of_scores(request, found, metric, context, given)


def _check_options(request: Request) -> None:
    """Refuse options that do not go together, all at once."""
    problems = []
    if request.columns.prediction is not None:
        with_scores = {
            "--scores": request.scores, "--scores-column": request.columns.scores or None,
            "--threshold": request.threshold, "--save": request.save, "--correction": request.correction,
        }  # fmt: skip
        problems += [
            f"{option}: goes with scores, got --prediction beside it"
            for option, value in with_scores.items()
            if value is not None
        ]
    if request.save is not None and request.objective is None:
        problems.append("--save: a correction is fitted for one metric; give --objective")
    if request.save is not None and request.correction is not None:
        problems.append("--save: goes with a correction that is fitted, got --correction beside it")
    if problems:
        raise UsageError("\n".join(problems))


def _metric(request: Request) -> Metric:
    from selmix.metrics import METRICS, metric_named
    from selmix.objectives import metric_of_objective
    from selmix.user_code import is_reference

    objective = request.objective or ""
    try:
        metric = metric_named(metric_of_objective(objective))
    except ValueError as error:
        if is_reference(objective):
            raise UsageError(f"--objective: {objective}: {error}") from error
        raise UsageError(f"--objective: unknown {objective!r}; {closest(objective, METRICS)}") from error
    if metric.needs is not None and getattr(request.definitions, metric.needs) is None:
        raise UsageError(
            f"--objective: {metric.key} needs numbers of its own; give them with {GIVEN_BY[metric.needs]}"
        )
    if metric.by_train_counts and request.train_counts is None:
        raise UsageError(
            f"--objective: {metric.key} depends on the training counts; give --train-counts N,N,..."
        )
    if metric.of_predictions is not None and request.columns.prediction is not None:
        raise UsageError(f"--objective: {metric.key} needs scores, got --prediction")
    if metric.of_predictions is not None and (request.save or request.correction) is not None:
        raise UsageError(
            f"--objective: {metric.key} is one of the scores, which no correction of decisions changes"
        )
    return metric


def _read_correction(path: Path) -> ScoreCorrection:
    from selmix.score_correction import load_score_correction

    try:
        return load_score_correction(path)
    except ValueError as error:
        raise PreflightError(str(error)) from error


def _context(request: Request, found: ScoreTable, metric: Metric | None) -> MetricContext:
    """Context of the metrics; all problems of the flags at once, as with a sweep file."""
    import torch

    from selmix.metrics import MetricContext
    from selmix.user_code import is_reference

    classes, counts = len(found.class_names), request.train_counts
    problems = request.definitions.problems(classes)
    if counts is not None and len(counts) != classes:
        problems.append(f"--train-counts: must be {classes} numbers, one per class, got {len(counts)}")
    single = found.scores is not None and found.scores.shape[1] == 1
    if request.threshold is not None and not single:
        problems.append("--threshold: goes with one column of scores, that of the positive class")
    # Definitions names the key of a sweep file; here the user typed a flag.
    if problems:
        text = "\n".join(problems)
        for key, flag in FLAGS.items():
            text = text.replace(f"{key}:", f"{flag}:")
        raise UsageError(text)
    if metric is not None and metric.of_cells is not None and found.unfit_groups:
        raise PreflightError(f"{request.table}: {found.unfit_groups}")
    if metric is not None and metric.of_cells is not None and found.groups is None:
        raise UsageError(
            f"--objective: {metric.key} needs groups; give {request.table} a column group, or name one with --group"
        )
    # Equal counts where none are given: the metrics that depend on them are left out.
    context = MetricContext(
        torch.tensor(counts or [1] * classes), request.definitions, num_groups=len(found.group_names)
    )
    if metric is not None and is_reference(metric.key):
        _try_own(metric.key, classes, context)
    return context


def _try_own(reference: str, classes: int, context: MetricContext) -> None:
    """Try a function of the user's own on matrices of as many classes, before it is called on the table."""
    from selmix.own_metrics import own_function

    try:
        refused = own_function(reference).problems(classes, context)
    except ValueError as error:
        refused = [str(error)]
    if refused:
        raise UsageError(f"--objective: {refused[0]}")


def _of_predictions(
    request: Request, found: ScoreTable, metric: Metric | None, context: MetricContext
) -> EvaluateDocument:
    import torch

    from selmix.baselines.score_table import assess_predictions
    from selmix.metrics import Predictions

    if found.predicted is None:
        raise AssertionError("a table of predictions has them")
    unknown = torch.full((len(found.labels),), torch.nan)
    predictions = Predictions(found.labels, found.predicted, unknown, found.groups)
    document = replace(
        _document(request, found), not_tried="it needs scores, the table has predictions alone"
    )
    try:
        if metric is None:
            return _with_all(document, request, found, predictions, context)
        assessment = assess_predictions(predictions, metric.key, context, found.class_names)
    except ValueError as error:
        raise PreflightError(f"{request.table}: {error}") from error
    return _with_one(document, assessment)


def _of_scores(
    request: Request,
    found: ScoreTable,
    metric: Metric | None,
    context: MetricContext,
    given: ScoreCorrection | None,
) -> EvaluateDocument:
    from selmix.baselines.score_table import assess_samples
    from selmix.data.score_tables import place_in
    from selmix.score_kinds import RowError, kind_of

    if found.scores is None:
        raise AssertionError("a table without predictions has scores")
    try:
        told = kind_of(found.scores, request.scores)
    except RowError as error:
        where = place_in(request.table, error.row)
        raise PreflightError(f"{request.table}: {where}: {error.text}") from error
    threshold = _threshold(request.threshold, told.kind) if found.scores.shape[1] == 1 else None
    samples = _samples(found.labels, found.scores, told.kind, threshold, found)
    document = replace(
        _document(request, found), scores=told.kind, scores_reason=told.reason, threshold=threshold
    )
    try:
        biases = None if given is None else given.for_classes(found.class_names).offsets()
    except ValueError as error:
        raise PreflightError(f"{request.correction}: {error}") from error
    try:
        if metric is None:
            corrected = None if biases is None else samples.predictions(biases)
            plain = samples.predictions(all_scores=True, in_place=biases is None)
            document = _with_all(document, request, found, plain, context, corrected)
            if given is None or biases is None:
                return document
            # By the metric that it was fitted for, where this table gives it.
            known = {row.metric for row in document.metrics if row.corrected is not None}
            judged_by = given.metric if given.metric in known else "mean_recall"
            judged = assess_samples(samples, judged_by, context, biases).correction
            return (
                document
                if judged is None
                else _with_correction(document, request, found.class_names, judged, given)
            )
        assessment = assess_samples(samples, metric.key, context, biases)
    except ValueError as error:
        # A class without samples: found only in the content of the table.
        raise PreflightError(f"{request.table}: {error}") from error
    document = _with_one(document, assessment)
    if assessment.correction is None:
        if request.save is not None:
            raise PreflightError(f"--save: no correction was fitted: {NOT_TRIED}")
        return replace(document, not_tried=NOT_TRIED if metric.of_predictions is None else OF_SCORES)
    return _with_correction(document, request, found.class_names, assessment.correction, given)


def _threshold(stated: float | None, kind: ScoreKind) -> float:
    """Threshold on one column of scores, by default that of even odds."""
    from selmix.score_kinds import from_log_odds

    if stated is None:
        return from_log_odds(0.0, kind)
    rules = {
        "probabilities": (0 < stated < 1, "lie in (0, 1)"), "log-probabilities": (stated < 0, "be below 0"),
        "logits": (math.isfinite(stated), "be a finite number"),
    }  # fmt: skip
    holds, rule = rules[kind]
    if not holds:
        raise UsageError(f"--threshold: must {rule}, since the scores are {kind}, got {stated:g}")
    return stated


def _samples(
    labels: Tensor, scores: Tensor, kind: ScoreKind, threshold: float | None, found: ScoreTable
) -> ScoredSamples:
    import torch

    from selmix.baselines.score_table import ScoredSamples
    from selmix.score_kinds import log_odds, on_log_scale

    # The table is not asked again what it held.
    on_scale = on_log_scale(scores, kind, in_place=True)
    if threshold is None:
        return ScoredSamples(labels, on_scale, found.class_names, found.groups, kind)
    odds = log_odds(torch.tensor([threshold], dtype=torch.float64), kind)
    # One column is log-odds by now, of which the softmax makes the probabilities.
    offsets = torch.cat([torch.zeros(1, dtype=torch.float64), -odds])
    return ScoredSamples(labels, on_scale, found.class_names, found.groups, "logits", offsets)


def _document(request: Request, found: ScoreTable) -> EvaluateDocument:
    """Document with what is known before a metric is computed."""
    single = found.scores is not None and found.scores.shape[1] == 1
    weights, costs = request.definitions.recall_weights, request.definitions.cost_matrix
    positive = found.class_names[1] if single or request.columns.positive is not None else None
    return EvaluateDocument(
        table=str(request.table), rows=len(found.labels), num_classes=len(found.class_names),
        groups=list(found.group_names), is_resolved=False, metric=None, value=None, classes=[], half_width=None,
        samples_needed=None, correction=None, positive=positive,
        definitions={"cvar_fraction": request.definitions.cvar_fraction, "beta": request.definitions.beta},
        recall_weights=None if weights is None else list(weights),
        cost_matrix=None if costs is None else [list(row) for row in costs], groups_left_out=found.unfit_groups,
    )  # fmt: skip


def _with_one(document: EvaluateDocument, assessment: Assessment) -> EvaluateDocument:
    """The document with one metric."""
    found = assessment.interval
    return replace(
        document,
        metric=assessment.metric,
        value=None if found is None else _figure(found),
        half_width=assessment.half_width,
        is_resolved=assessment.is_resolved,
        samples_needed=assessment.samples_needed,
        classes=_class_rows(assessment.classes),
        metrics=[_row(assessment.metric, assessment.plain, found)],
    )


def _with_all(
    document: EvaluateDocument, request: Request, found: ScoreTable, predictions: Predictions, context: MetricContext,
    corrected: Predictions | None = None,
) -> EvaluateDocument:  # fmt: skip
    """The document with every metric that the table gives."""
    from selmix.baselines.score_table import all_metrics, checked_counts, class_rows
    from selmix.metrics import METRICS

    counts = checked_counts(predictions, found.class_names)
    left_out = {}
    for key, metric in METRICS.items():
        if metric.needs is not None and getattr(request.definitions, metric.needs) is None:
            left_out[key] = GIVEN_BY[metric.needs].partition(" ")[0]
        elif metric.by_train_counts and request.train_counts is None:
            left_out[key] = "--train-counts"
        elif metric.of_cells is not None and found.groups is None:
            left_out[key] = f"groups ({found.unfit_groups})" if found.unfit_groups else "groups"
        elif metric.of_predictions is not None and found.predicted is not None:
            left_out[key] = "scores"
    rows = []
    for each in all_metrics(predictions, context, left_out):
        metric = METRICS[each.key]
        # A correction moves decisions and no scores.
        by_decisions = corrected is not None and metric.of_predictions is None
        after = corrected.value(metric, context) if corrected is not None and by_decisions else None
        rows.append(_row(each.key, each.value, each.interval, after))
    return replace(
        document,
        classes=_class_rows(class_rows(counts, found.class_names)),
        metrics=rows,
        left_out=left_out,
    )


def _with_correction(
    document: EvaluateDocument, request: Request, names: tuple[str, ...], found: FoundCorrection,
    given: ScoreCorrection | None,
) -> EvaluateDocument:  # fmt: skip
    """The document with a correction, which is written where that is asked."""
    import torch

    from selmix.score_correction import ScoreCorrection, binary_threshold

    threshold = None
    if document.threshold is not None and document.scores is not None:
        threshold = binary_threshold(torch.tensor(found.biases, dtype=torch.float64), document.scores)
    fitted_here = given is not None and given.digest == _digest(request.table)
    correction = Correction(
        found.value, _figure(found.difference), found.outcome, list(found.biases), threshold,
        _figure(found.mean_recall), found.constant_class, list(found.emptied), found.constant_folds,
        None if given is None else str(request.correction), fitted_here, found.metric,
    )  # fmt: skip
    document = replace(document, correction=correction)
    if document.metric is not None:
        (row,) = document.metrics
        document = replace(document, metrics=[replace(row, corrected=found.value)])
    if request.save is None or document.metric is None or document.scores is None:
        return document
    kept = ScoreCorrection(
        "biases" if threshold is None else "threshold", names, document.scores, document.metric,
        found.biases if threshold is None else (), threshold, document.rows, _digest(request.table),
    )  # fmt: skip
    try:
        kept.save(request.save)
    except OSError as error:
        raise PreflightError(f"{request.save}: cannot be written: {error.strerror}") from error
    return replace(document, saved=str(request.save))


def _class_rows(rows: Sequence[FoundClassRow]) -> list[ClassRow]:
    return [ClassRow(row.name, row.samples, _figure(row.recall)) for row in rows]


def _figure(interval: Estimate) -> Figure:
    return Figure(**asdict(interval))


def _row(key: str, value: float, interval: Estimate | None, corrected: float | None = None) -> MetricRow:
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return MetricRow(key, value, low, high, corrected)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def evaluation_text(document: EvaluateDocument, width: int | None) -> str:
    """Text of an evaluation on one screen; its first line is the answer."""
    groups = f" in {len(document.groups)} groups" if document.groups else ""
    samples = f"{document.rows} samples of {document.num_classes} classes{groups}"
    if document.metric is None:
        return _text_of_all(document, samples, width)
    weakest = paragraph(
        "weakest", f"recall in %, each class with its own interval: class {_weakest(document)}", width
    )
    return "\n".join([
        sentence(f"{document.metric} {_answer(document)}, on {samples}", width),
        *([paragraph("resolved", _resolved(document), width)] if document.value is not None else []),
        weakest,
        *_of_scores_lines(document, width),
        *([paragraph("groups", f"none: {document.groups_left_out}", width)] if document.groups_left_out else []),
        paragraph("post hoc", _post_hoc(document), width),
    ])  # fmt: skip


def _answer(document: EvaluateDocument) -> str:
    if document.value is not None:
        unit = unit_of(document.metric)
        return f"{estimate(document.value, unit)}{unit.value} (95 % interval)"
    (row,) = document.metrics
    return f"{_shown(row.metric, row.value)} (no interval is known)"


def _shown(metric: str, value: float) -> str:
    unit = unit_of(metric)
    return f"{number(value, unit)}{unit.value}{NATS if metric == 'log_loss' else ''}"


def _resolved(document: EvaluateDocument) -> str:
    unit = unit_of(document.metric)
    goal = f"{unit.factor * GOAL:g}{unit.difference}"
    half = f"the interval is {number(document.half_width or 0.0, unit)}{unit.difference} to a side"
    if document.is_resolved:
        return f"yes: {half}, no more than {goal}"
    smallest = min(row.samples for row in document.classes)
    needed = document.samples_needed
    more = f"about {needed} per class would do" if needed else "more are needed"
    return f"no: {half}, more than {goal}, with {smallest} samples in the smallest class; {more}"


def _weakest(document: EvaluateDocument) -> str:
    return "; ".join(
        f"{row.name} {estimate(row.recall)} (n {row.samples})" for row in document.classes[:MAX_CLASSES_SHOWN]
    )


def _of_scores_lines(document: EvaluateDocument, width: int | None) -> list[str]:
    """Kind of the scores, in words; nothing for a document of before."""
    if document.scores is None:
        return []
    cut = ""
    if document.threshold is not None:
        cut = f"; {document.positive} is predicted where its score exceeds {document.threshold:.4g}"
    return [paragraph("scores", f"{document.scores}, {document.scores_reason}{cut}", width)]


def _post_hoc(document: EvaluateDocument) -> str:
    correction = document.correction
    if correction is None:
        return f"not tried: {document.not_tried or NOT_TRIED}"
    what = "a bias per class on the scores"
    if correction.threshold is not None:
        what = f"a threshold of {correction.threshold:.4g} on the score of {document.positive}"
    origin = "fitted and evaluated on different samples"
    if correction.given is not None:
        what = f"{what}, of {correction.given},"
        origin = "fitted on another table"
        if correction.fitted_here:
            origin = "fitted on these very samples: what it gains here says nothing of others"
    else:
        what = f"{what}, which costs no training,"
    of = f" {correction.metric} of" if document.metric is None else ""
    unit = unit_of(correction.metric or document.metric)
    gained = f"{difference(correction.difference, unit)}{unit.difference}: {correction.outcome}"
    gives = f"{what} gives{of} {number(correction.value, unit)}{unit.value}, {gained}"
    saved = f"; written to {document.saved}" if document.saved is not None else ""
    return f"{gives}{_price(correction)}; {origin}{saved}"


def _price(correction: Correction) -> str:
    """Effect of a correction on the classes, and on the mean recall."""
    if correction.constant_class is not None:
        does = f", by giving EVERY sample to class {correction.constant_class}"
    elif correction.emptied:
        shown = ", ".join(correction.emptied[:MAX_CLASSES_SHOWN])
        more = len(correction.emptied) - MAX_CLASSES_SHOWN
        does = f", by giving NO sample to class {shown}" + (f" and {more} more" if more > 0 else "")
    elif correction.constant_folds:
        does = f", but of {correction.constant_folds} of 5 folds every sample went to one class"
    else:
        does = ""
    if correction.mean_recall is None or (correction.metric in OF_MEAN_RECALL and not does):
        return does
    return f"{does}; mean recall {difference(correction.mean_recall)} pp"


def _text_of_all(document: EvaluateDocument, samples: str, width: int | None) -> str:
    corrected = any(row.corrected is not None for row in document.metrics)
    columns = [Column("metric"), Column("value", right=True), Column("95 % interval")]
    if corrected:
        columns.append(Column("corrected", right=True))
    rows = []
    for row in document.metrics:
        interval, unit = "no interval", unit_of(row.metric)
        if row.low is not None and row.high is not None:
            interval = f"[{number(row.low, unit)}, {number(row.high, unit)}]"
        after = "" if row.corrected is None else _shown(row.metric, row.corrected)
        rows.append([row.metric, _shown(row.metric, row.value), interval, *([after] if corrected else [])])
    needs: dict[str, list[str]] = {}
    for metric, need in document.left_out.items():
        needs.setdefault(need, []).append(metric)
    left_out = "; ".join(f"{', '.join(metrics)}: for want of {need}" for need, metrics in needs.items())
    return "\n".join([
        sentence(f"{samples}, all metrics", width),
        table(columns, rows, width),
        paragraph("defined", _defined(document), width),
        *([paragraph("left out", left_out, width)] if left_out else []),
        paragraph("weakest", f"recall in %, each class with its own interval: class {_weakest(document)}", width),
        *_of_scores_lines(document, width),
        *([paragraph("post hoc", _post_hoc(document), width)] if document.correction is not None else []),
        paragraph("next", "--objective METRIC: whether the samples suffice, and what a free correction gives", width),
    ])  # fmt: skip


def _defined(document: EvaluateDocument) -> str:
    """Definitions of the metrics that have some."""
    share, beta = document.definitions["cvar_fraction"], document.definitions["beta"]
    return f"cvar_recall of the weakest {percent(share)} % of the classes; f_beta with beta {beta:g}"
