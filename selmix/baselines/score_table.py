"""What a table of labels and class scores says: a metric, whether it is resolved, and what a correction would give."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from selmix.baselines.post_hoc import bias_search
from selmix.metrics import METRICS, MetricContext, Predictions, metric_named
from selmix.statistics.comparison import Outcome, outcome, paired_difference
from selmix.statistics.intervals import Estimate, counts_interval, metric_interval
from selmix.statistics.proportions import clopper_pearson

FOLDS = 5
MOST_CLASSES_CORRECTED = 100  # the search is over the classes, one by one
GOAL = 0.05
_MOST_SAMPLES = 2**20


@dataclass(frozen=True)
class ClassRow:
    """One class: samples, recall and its exact 95 % limits."""

    name: str
    samples: int
    recall: Estimate


@dataclass(frozen=True)
class Correction:
    """Post-hoc biases, fitted and judged on different samples (five folds), against the scores as they are.

    Attributes:
        value: of the corrected predictions. difference: corrected minus plain, higher is better, paired.
        biases: fitted on all samples, to be added to the scores; shape (K,).
    """

    value: float
    difference: Estimate
    outcome: Outcome
    biases: tuple[float, ...]


@dataclass(frozen=True)
class Assessment:
    """A metric of a table.

    Attributes:
        classes: the weakest first.
        half_width: of the interval. samples_needed: a class, for a half-width of 5 points at these recalls; None
            where no reachable number does it.
        correction: None where it was not asked for or there are too many classes.
    """

    metric: str
    value: Estimate
    classes: tuple[ClassRow, ...]
    half_width: float
    samples_needed: int | None
    correction: Correction | None

    @property
    def is_resolved(self) -> bool:
        """Whether the interval is no wider than 5 points to a side."""
        return self.half_width <= GOAL


def assess(
    labels: Tensor,
    scores: Tensor,
    metric: str,
    context: MetricContext,
    names: tuple[str, ...],
    groups: Tensor | None = None,
) -> Assessment:
    """Everything that labels and scores say of a metric, in seconds and without a model.

    Args:
        labels: shape (n,), every class at least once. scores: logits, log-probabilities or any scores of the classes,
            shape (n, K); the largest is the prediction.
        metric: a key of METRICS. names: of the classes. groups: of each sample, shape (n,); ``context`` says how many.
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
    if definition.of_predictions is None and len(names) <= MOST_CLASSES_CORRECTED:
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
    found = [
        ClassRow(name, int(rows[k]), Estimate(float(hits[k] / rows[k]), float(low[k]), float(high[k])))
        for k, name in enumerate(names)
    ]
    return tuple(sorted(found, key=lambda row: row.recall.value))


def _samples_needed(metric: str, counts: Tensor, context: MetricContext, half: float) -> int | None:
    """Samples a class for the goal if the shares of this matrix stayed, by doubling and bisection."""
    smallest = int(counts.sum(dim=1).min())
    if half <= GOAL:
        return smallest
    if METRICS[metric].of_recalls is None:
        return None  # intervals of whole matrices come from draws: too slow to search over
    shares = counts.double() / counts.sum(dim=1, keepdim=True)

    def reached(samples: int) -> bool:
        interval = counts_interval(metric, shares * samples, context)
        return (interval.high - interval.low) / 2.0 <= GOAL

    low, high = 1, 2
    while not reached(high):
        low, high = high, high * 2
        if high > _MOST_SAMPLES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _corrected(
    labels: Tensor, scores: Tensor, metric: str, context: MetricContext, plain: Predictions
) -> Correction:
    adjusted, groups = scores.clone(), plain.groups
    position = torch.zeros_like(labels)
    for k in torch.unique(labels):
        members = labels == k
        # Dealt out in a shuffled order: a table is often sorted by how hard its samples are.
        order = torch.randperm(int(members.sum()), generator=torch.Generator().manual_seed(int(k)))
        position[members] = order
    for fold in range(FOLDS):
        held = position % FOLDS == fold
        rest = None if groups is None else groups[~held]
        adjusted[held] += bias_search(scores[~held], labels[~held], metric, context, rest)
    corrected = Predictions.from_logits(labels, adjusted, groups)
    difference = paired_difference(metric, [corrected], [plain], context)
    value = float(METRICS[metric].of(corrected.counts_for(metric, context), context))
    biases = bias_search(scores, labels, metric, context, groups)
    return Correction(value, difference, outcome(difference), tuple(biases.tolist()))
