"""Assessment of a table of labels and class scores: a metric, its precision, and the gain of a post-hoc correction."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from selmix.baselines.post_hoc import bias_search
from selmix.groups import strata_of
from selmix.metric_keys import ends_of
from selmix.metrics import METRICS, MetricContext, Predictions, evaluate_predictions, metric_named
from selmix.score_correction import decide
from selmix.score_kinds import ScoreKind, kind_of, log_probabilities
from selmix.statistics.comparison import Outcome, outcome, paired_difference
from selmix.statistics.constructions import CONSTRUCTIONS, construction_of
from selmix.statistics.intervals import Estimate, counts_interval, metric_interval
from selmix.statistics.proportions import clopper_pearson

FOLDS = 5
MAX_CLASSES_CORRECTED = 300  # the search is over the classes, one by one, and in every fold
MAX_SAMPLES_FITTED = 100_000  # of a table; more would move no bias by what its interval shows
GOAL = 0.05  # half-width of an interval that counts as resolved
OF_RATES = frozenset({
    key for key, metric in METRICS.items()
    if (metric.of_recalls is not None and key != "accuracy")
    or key in ("worst_group_recall", "equal_opportunity_gap", "equalized_odds_gap")
})  # fmt: skip
"""Metrics of rates within strata: how many samples a stratum has beside the others does not matter."""

_ROWS_AT_ONCE = 2**16  # bounds what is worked on beside the scores
_MAX_SAMPLES = 2**20  # per class; no larger number is searched


@dataclass(frozen=True)
class ClassRow:
    """One class of a table.

    Attributes:
        name: of the class.
        samples: number of them.
        recall: with its exact 95 % confidence bounds.
    """

    name: str
    samples: int
    recall: Estimate


@dataclass(frozen=True)
class Correction:
    """Post-hoc biases against the scores as they are: fitted and evaluated on different samples (five folds), or given.

    Of a large table they are fitted on a part; they are evaluated on all samples.

    Attributes:
        metric: a key of METRICS.
        value: metric of the corrected predictions.
        difference: corrected minus plain, higher is better, paired.
        outcome: of that difference.
        biases: fitted on samples of all folds, to be added to the scores; shape (K,).
        mean_recall: corrected minus plain mean recall, paired: what a metric that recalls do not enter may cost.
        constant_class: class that the biases give every sample to; None where they do not.
        emptied: classes that the biases give no sample to.
        constant_folds: folds of which the biases fitted on the others give every sample to one class; 0 of given ones.
    """

    metric: str
    value: float
    difference: Estimate
    outcome: Outcome
    biases: tuple[float, ...]
    mean_recall: Estimate
    constant_class: str | None
    emptied: tuple[str, ...]
    constant_folds: int


@dataclass(frozen=True)
class MetricValue:
    """A metric of a table.

    Attributes:
        key: a key of METRICS.
        value: of the samples.
        interval: with its 95 % limits; None where there is no interval, or where it is all of its range.
    """

    key: str
    value: float
    interval: Estimate | None


@dataclass(frozen=True)
class Assessment:
    """Metric of a table with its precision.

    Attributes:
        metric: a key of METRICS.
        plain: value of the metric.
        interval: the value with its 95 % interval; None for a metric without one.
        classes: the weakest first.
        samples_needed: per class, for a half-width of 5 percentage points at these recalls; None where no reachable
            number is enough, or where it cannot be worked out from recalls.
        correction: None for a metric that biases cannot be searched for, where there are too many classes, or one
            sample of each.
    """

    metric: str
    plain: float
    interval: Estimate | None
    classes: tuple[ClassRow, ...]
    samples_needed: int | None
    correction: Correction | None

    @property
    def value(self) -> Estimate:
        """Value with its interval.

        Raises:
            ValueError: a metric without one.
        """
        if self.interval is None:
            raise ValueError(f"{self.metric} has no interval: {construction_of(self.metric).why}")
        return self.interval

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval; None without one."""
        return None if self.interval is None else (self.interval.high - self.interval.low) / 2.0

    @property
    def is_resolved(self) -> bool:
        """True if the half-width of the interval is at most 5 percentage points."""
        return self.half_width is not None and self.half_width <= GOAL


@dataclass(frozen=True)
class ScoredSamples:
    """Labelled samples with the scores of the classes.

    Attributes:
        labels: shape (n,), every class at least once.
        scores: on the scale to which biases are added, shape (n, K): logits, or logarithms of probabilities; -inf is a
            score that never wins.
        names: of the classes.
        groups: of each sample, shape (n,); None without a group attribute.
        kind: of the scores: logits are made probabilities by the softmax, all others are logarithms of them.
        offsets: added to the scores before the largest is taken as they are, shape (K,); None for none.
    """

    labels: Tensor
    scores: Tensor
    names: tuple[str, ...]
    groups: Tensor | None = None
    kind: ScoreKind = "logits"
    offsets: Tensor | None = None

    def predictions(
        self, offsets: Tensor | None = None, all_scores: bool = False, in_place: bool = False
    ) -> Predictions:
        """Predictions by the scores with offsets.

        Args:
            offsets: shape (K,); None for those of the scores as they are.
            all_scores: keep the probabilities of all classes beside that of the predicted one.
            in_place: these may be written over the scores, which are not needed any more.
        """
        offsets = self.offsets if offsets is None else offsets
        if offsets is None:
            offsets = torch.zeros(len(self.names), dtype=torch.float64)
        predicted = decide(self.scores, offsets)
        kept = log_probabilities(self.scores, self.kind, in_place) if all_scores else None
        confidence = torch.empty(len(predicted), dtype=torch.float64)
        for start in range(0, len(predicted), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            part = kept[rows] if kept is not None else log_probabilities(self.scores[rows], self.kind)
            confidence[rows] = part.gather(1, predicted[rows].unsqueeze(1)).squeeze(1).double().exp()
        return Predictions(self.labels, predicted, confidence, self.groups, kept)


def assess(
    labels: Tensor,
    scores: Tensor,
    metric: str,
    context: MetricContext,
    names: tuple[str, ...],
    groups: Tensor | None = None,
) -> Assessment:
    """Assess a metric from labels and scores alone, in seconds and without a model.

    Args:
        labels: shape (n,), every class at least once.
        scores: logits, or logarithms of probabilities (:mod:`selmix.score_kinds`), shape (n, K); the largest is the
            prediction, and -inf never is.
        metric: a key of METRICS.
        context: of the metric, with the number of groups.
        names: of the classes.
        groups: of each sample, shape (n,); None without a group attribute.
    Raises:
        ValueError: an unknown metric, one of groups without groups, a class without a sample, or scores that are NaN,
            inf, or -inf for every class.
    """
    kind_of(scores, "logits")
    return assess_samples(ScoredSamples(labels, scores, names, groups), metric, context)


def assess_samples(
    samples: ScoredSamples, metric: str, context: MetricContext, given: Tensor | None = None
) -> Assessment:
    """Assess a metric, and a correction of the scores for it.

    Args:
        samples: with scores that :func:`selmix.score_kinds.kind_of` has checked.
        metric: a key of METRICS.
        context: of the metric, with the number of groups.
        given: biases of a correction, shape (K,); None to search one.
    Raises:
        ValueError: an unknown metric, one of groups without groups, or a class without a sample.
    """
    definition = metric_named(metric)
    plain = samples.predictions(all_scores=definition.by_scores)
    found = assess_predictions(plain, metric, context, samples.names)
    # Biases move decisions, by which a metric of predictions is not determined.
    if definition.of_predictions is not None:
        return found
    if given is not None:
        return replace(found, correction=_given(samples, metric, context, plain, given))
    # Of one sample per class none would be left to fit on: all of them are in the same fold.
    if len(samples.names) > MAX_CLASSES_CORRECTED or len(samples.labels) <= len(samples.names):
        return found
    return replace(found, correction=_corrected(samples, metric, context, plain))


def assess_predictions(
    predictions: Predictions, metric: str, context: MetricContext, names: tuple[str, ...]
) -> Assessment:
    """Assess a metric of predictions, without a correction.

    Args:
        predictions: of a model.
        metric: a key of METRICS.
        context: of the metric, with the number of groups.
        names: of the classes.
    Raises:
        ValueError: an unknown metric, one that the predictions do not give, or a class without a sample.
    """
    definition = metric_named(metric)
    counts = checked_counts(predictions, names)
    interval = None
    if construction_of(metric).has_interval:
        interval = metric_interval(metric, predictions, context)
    value = predictions.value(definition, context) if interval is None else interval.value
    half = None if interval is None else (interval.high - interval.low) / 2.0
    needed = None if half is None else _samples_needed(metric, counts, context, half)
    return Assessment(metric, value, interval, class_rows(counts, names), needed, None)


def checked_counts(predictions: Predictions, names: tuple[str, ...]) -> Tensor:
    """Confusion counts, shape (K, K).

    Raises:
        ValueError: a class has no sample.
    """
    counts = predictions.counts(len(names))
    empty = [name for name, row in zip(names, counts.sum(dim=1).tolist(), strict=True) if row == 0]
    if empty:
        raise ValueError(f"every class must have a sample, got none of {', '.join(empty)}")
    return counts


def all_metrics(
    predictions: Predictions, context: MetricContext, leave_out: Collection[str] = ()
) -> list[MetricValue]:
    """Every metric that the predictions give, in the order of METRICS, with its interval where there is one.

    Args:
        predictions: of a model, every class with a sample.
        context: of the metrics.
        leave_out: keys of metrics that are not meant.
    """
    found = []
    for key, value in evaluate_predictions(predictions, context).items():
        if key in leave_out:
            continue
        interval = metric_interval(key, predictions, context) if CONSTRUCTIONS[key].has_interval else None
        # An interval of all values, [0, 1] of a fraction, says nothing.
        least, most = ends_of(key)
        if interval is not None and interval.low <= least and interval.high >= most:
            interval = None
        found.append(MetricValue(key, value, interval))
    return found


def class_rows(counts: Tensor, names: tuple[str, ...]) -> tuple[ClassRow, ...]:
    """Recall of each class with its exact interval, the weakest first."""
    hits, rows = counts.diagonal(), counts.sum(dim=1)
    low, high = clopper_pearson(hits, rows, 0.025)
    classes = [
        ClassRow(name, int(rows[k]), Estimate(float(hits[k] / rows[k]), float(low[k]), float(high[k])))
        for k, name in enumerate(names)
    ]
    return tuple(sorted(classes, key=lambda row: row.recall.value))


def _samples_needed(metric: str, counts: Tensor, context: MetricContext, half: float) -> int | None:
    """Samples per class for the goal if the shares of this matrix stayed, by doubling and bisection."""
    smallest = int(counts.sum(dim=1).min())
    if half <= GOAL:
        return smallest
    if metric_named(metric).of_recalls is None:
        return None  # intervals of whole matrices may come from draws: too slow to search over
    shares = counts.double() / counts.sum(dim=1, keepdim=True)

    def reached(samples: int) -> bool:
        interval = counts_interval(metric, shares * samples, context)
        return (interval.high - interval.low) / 2.0 <= GOAL

    # After the doubling the smallest sufficient number lies in (low, high].
    low, high = 1, 2
    while not reached(high):
        low, high = high, high * 2
        if high > _MAX_SAMPLES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _corrected(samples: ScoredSamples, metric: str, context: MetricContext, plain: Predictions) -> Correction:
    """Biases of five folds for an unbiased value, and biases of all samples to be used."""
    labels, scores = samples.labels, samples.scores
    predicted = torch.empty_like(plain.predicted)
    fold_of = torch.zeros(len(labels), dtype=torch.uint8)
    for k in torch.unique(labels):
        members = labels == k
        # In a shuffled order: a table is often sorted by how hard its samples are.
        order = torch.randperm(int(members.sum()), generator=torch.Generator().manual_seed(int(k)))
        fold_of[members] = (order % FOLDS).to(fold_of.dtype)
    constant = 0
    for fold in range(FOLDS):
        held = fold_of == fold
        if not bool(held.any()):
            continue
        biases = _biases(samples, metric, context, torch.nonzero(~held).flatten())
        predicted[held] = decide(scores[held], biases)
        constant += len(torch.unique(predicted[held])) == 1
    biases = _biases(samples, metric, context, torch.arange(len(labels)))
    return _judged(samples, metric, context, plain, predicted, biases, constant)


def _given(
    samples: ScoredSamples, metric: str, context: MetricContext, plain: Predictions, biases: Tensor
) -> Correction:
    return _judged(samples, metric, context, plain, decide(samples.scores, biases), biases, 0)


def _judged(
    samples: ScoredSamples, metric: str, context: MetricContext, plain: Predictions, predicted: Tensor,
    biases: Tensor, constant_folds: int,
) -> Correction:  # fmt: skip
    """Corrected predictions beside plain ones, and what the biases do with the classes."""
    # Decisions only: biases that are chosen for a metric make no probabilities.
    unknown = torch.full_like(plain.confidence, torch.nan)
    corrected = Predictions(plain.labels, predicted, unknown, plain.groups)
    difference = paired_difference(metric, [corrected], [plain], context)
    value = float(metric_named(metric).of(corrected.counts_for(metric, context), context))
    decided = torch.bincount(decide(samples.scores, biases), minlength=len(samples.names))
    used = torch.nonzero(decided).flatten().tolist()
    return Correction(
        metric, value, difference, outcome(difference), tuple(biases.tolist()),
        paired_difference("mean_recall", [corrected], [plain], context),
        samples.names[used[0]] if len(used) == 1 else None,
        tuple(name for k, name in enumerate(samples.names) if k not in used),
        constant_folds,
    )  # fmt: skip


def _biases(samples: ScoredSamples, metric: str, context: MetricContext, of: Tensor) -> Tensor:
    """Biases fitted on the samples at indices ``of``, or on MAX_SAMPLES_FITTED of them; shape (K,), float64."""
    labels, groups = samples.labels, samples.groups
    if len(of) > MAX_SAMPLES_FITTED:
        rows = labels[of] if groups is None else strata_of(labels[of], groups[of], context.num_groups)
        of = of[thinned(rows, MAX_SAMPLES_FITTED, metric not in OF_RATES)]
    found = bias_search(
        samples.scores[of], labels[of], metric, context, None if groups is None else groups[of]
    )
    return found.double()


def thinned(rows: Tensor, most: int, keep_shares: bool) -> Tensor:
    """Choose samples, evenly within each stratum.

    Args:
        rows: stratum of each sample, shape (n,).
        most: samples to keep; rounding may add one a stratum.
        keep_shares: each stratum keeps its share of the samples; otherwise only large strata lose some.
    Returns:
        Their indices, sorted.
    """
    counts = torch.bincount(rows)
    if keep_shares:
        kept = (counts.double() * (most / len(rows))).ceil().long()
    else:
        low, high = 1, int(counts.max())
        # The largest number for every stratum with which all together are no more.
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if int(counts.clamp_max(middle).sum()) <= most else (low, middle - 1)
        kept = counts.clamp_max(low)
    generator = torch.Generator().manual_seed(0)
    chosen = []
    for stratum in torch.nonzero(counts).flatten().tolist():
        members = torch.nonzero(rows == stratum).flatten()
        # Shuffled: a table is often sorted by how hard its samples are.
        chosen.append(members[torch.randperm(len(members), generator=generator)[: int(kept[stratum])]])
    return torch.cat(chosen).sort().values
