"""Assessment of a table of labels and class scores: a metric, its precision, and the gain of a post-hoc correction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from selmix.baselines.post_hoc import bias_search
from selmix.groups import strata_of
from selmix.metrics import METRICS, MetricContext, Predictions, metric_named
from selmix.statistics.comparison import Outcome, outcome, paired_difference
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
    """Post-hoc biases, fitted and evaluated on different samples (five folds), against the scores as they are.

    Of a large table they are fitted on a part; they are evaluated on all samples.

    Attributes:
        value: metric of the corrected predictions.
        difference: corrected minus plain, higher is better, paired.
        outcome: of that difference.
        biases: fitted on samples of all folds, to be added to the scores; shape (K,).
    """

    value: float
    difference: Estimate
    outcome: Outcome
    biases: tuple[float, ...]


@dataclass(frozen=True)
class Assessment:
    """Metric of a table with its precision.

    Attributes:
        metric: a key of METRICS.
        value: with its 95 % interval.
        classes: the weakest first.
        half_width: of the interval.
        samples_needed: per class, for a half-width of 5 percentage points at these recalls; None where no reachable
            number is enough, or where it cannot be worked out from recalls.
        correction: None for a metric that biases cannot be searched for, where there are too many classes, or one
            sample of each.
    """

    metric: str
    value: Estimate
    classes: tuple[ClassRow, ...]
    half_width: float
    samples_needed: int | None
    correction: Correction | None

    @property
    def is_resolved(self) -> bool:
        """True if the half-width of the interval is at most 5 percentage points."""
        return self.half_width <= GOAL


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
        scores: logits, log-probabilities or any scores of the classes, shape (n, K); the largest is the prediction.
        metric: a key of METRICS.
        context: of the metric, with the number of groups.
        names: of the classes.
        groups: of each sample, shape (n,); None without a group attribute.
    Raises:
        ValueError: an unknown metric, one of groups without groups, a class without a sample, or scores that are not
            finite.
    """
    definition = metric_named(metric)
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores must be finite numbers")
    predictions = Predictions.from_logits(labels, scores, groups)
    counts = predictions.counts(len(names))
    empty = [name for name, row in zip(names, counts.sum(dim=1).tolist(), strict=True) if row == 0]
    if empty:
        raise ValueError(f"every class must have a sample, got none of {', '.join(empty)}")
    value = metric_interval(metric, predictions, context)
    half = (value.high - value.low) / 2.0
    corrected = None
    # Biases are searched on counts, and a metric of predictions has none. Of one sample per class, none would be left
    # to fit on: all of them are in the same fold.
    if definition.of_predictions is None and len(names) <= MAX_CLASSES_CORRECTED and len(labels) > len(names):
        corrected = _corrected(labels, scores.float(), metric, context, predictions)
    return Assessment(
        metric,
        value,
        _class_rows(counts, names),
        half,
        _samples_needed(metric, counts, context, half),
        corrected,
    )


def _class_rows(counts: Tensor, names: tuple[str, ...]) -> tuple[ClassRow, ...]:
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


def _corrected(
    labels: Tensor, scores: Tensor, metric: str, context: MetricContext, plain: Predictions
) -> Correction:
    """Biases of five folds for an unbiased value, and biases of all samples to be used."""
    groups = plain.groups
    predicted, confidence = torch.empty_like(plain.predicted), torch.empty_like(plain.confidence)
    fold_of = torch.zeros(len(labels), dtype=torch.uint8)
    for k in torch.unique(labels):
        members = labels == k
        # In a shuffled order: a table is often sorted by how hard its samples are.
        order = torch.randperm(int(members.sum()), generator=torch.Generator().manual_seed(int(k)))
        fold_of[members] = (order % FOLDS).to(fold_of.dtype)
    for fold in range(FOLDS):
        held = fold_of == fold
        biases = _biases(labels, scores, metric, context, groups, torch.nonzero(~held).flatten())
        part = Predictions.from_logits(labels[held], scores[held] + biases)
        predicted[held], confidence[held] = part.predicted, part.confidence
    corrected = Predictions(plain.labels, predicted, confidence, groups)
    difference = paired_difference(metric, [corrected], [plain], context)
    value = float(metric_named(metric).of(corrected.counts_for(metric, context), context))
    biases = _biases(labels, scores, metric, context, groups, torch.arange(len(labels)))
    return Correction(value, difference, outcome(difference), tuple(biases.tolist()))


def _biases(
    labels: Tensor, scores: Tensor, metric: str, context: MetricContext, groups: Tensor | None, of: Tensor
) -> Tensor:
    """Biases fitted on the samples at indices ``of``, or on MAX_SAMPLES_FITTED of them."""
    if len(of) > MAX_SAMPLES_FITTED:
        rows = labels[of] if groups is None else strata_of(labels[of], groups[of], context.num_groups)
        of = of[thinned(rows, MAX_SAMPLES_FITTED, metric not in OF_RATES)]
    return bias_search(scores[of], labels[of], metric, context, None if groups is None else groups[of])


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
