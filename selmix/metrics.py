"""The metric keys of the product, listed once: the same words in sweep files, MLflow, tables and pins.

Every metric is a fraction computed on raw counts. Those of counts take any number of leading dimensions, so that
bootstrap resamples are evaluated at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from selmix.confusion import confusion_counts, coverage, recalls
from selmix.definitions import Definitions, cvar_of_recalls
from selmix.objectives import tail_classes
from selmix.user_code import is_reference

CALIBRATION_BINS = 15
MANY_SHOT, FEW_SHOT = 100, 20


@dataclass(frozen=True)
class MetricContext:
    """What a metric may know beside the counts.

    Attributes:
        train_counts: training samples of each class, shape (K,).
        definitions: what the metrics with parameters take.
    """

    train_counts: Tensor
    definitions: Definitions = field(default_factory=Definitions)

    @property
    def tail(self) -> Tensor:
        """Mask of the tail classes, shape (K,)."""
        return tail_classes(len(self.train_counts), self.train_counts, self.definitions.head_fraction)


CountsMetric = Callable[[Tensor, MetricContext], Tensor]
RecallsMetric = Callable[[Tensor, Tensor, MetricContext], Tensor]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        key: its name. minimise: whether less is better.
        of_recalls: recalls (..., K), prior (K,) and context -> (...), where recalls and prior are enough.
        of_counts: counts (..., K, K), float64, and context -> (...), where they are not.
        linear: whether it is a weighted mean of the recalls (or 1 minus one).
        Neither is set for ``calibration_error``, which counts do not give.
    """

    key: str
    of_recalls: RecallsMetric | None = None
    of_counts: CountsMetric | None = None
    minimise: bool = False
    linear: bool = False

    def of(self, counts: Tensor, context: MetricContext) -> Tensor:
        """The metric of counts (..., K, K), shape (...).

        Raises:
            ValueError: counts do not give this metric.
        """
        counts = counts.double()
        if self.of_recalls is not None:
            rows = counts.sum(dim=-1)
            return self.of_recalls(recalls(counts), rows / rows.sum(dim=-1, keepdim=True), context)
        if self.of_counts is not None:
            return self.of_counts(counts, context)
        raise ValueError(f"{self.key} is no metric of counts: it needs the confidences")


@dataclass(frozen=True)
class Predictions:
    """What a model says of a split.

    Attributes:
        labels, predicted: shape (n,), int64. confidence: of the predicted class, shape (n,), float32.
    """

    labels: Tensor
    predicted: Tensor
    confidence: Tensor

    @classmethod
    def from_logits(cls, labels: Tensor, logits: Tensor) -> Predictions:
        """Predictions on the CPU from logits of shape (n, K)."""
        confidence, predicted = torch.softmax(logits.float(), dim=1).max(dim=1)
        return cls(labels.cpu(), predicted.cpu(), confidence.cpu())

    @property
    def correct(self) -> Tensor:
        return self.labels == self.predicted

    def counts(self, num_classes: int) -> Tensor:
        """Confusion counts, shape (K, K), int64."""
        return confusion_counts(self.labels, self.predicted, num_classes, num_classes)


def mean_recall(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Mean of the recalls."""
    return values.mean(dim=-1)


def min_recall(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """The smallest recall."""
    return values.amin(dim=-1)


def min_head_tail_recall(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """The smaller of the mean recalls of head and tail."""
    tail = context.tail
    return torch.minimum(values[..., ~tail].mean(dim=-1), values[..., tail].mean(dim=-1))


def g_mean(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Geometric mean of the recalls; 0 where a recall is 0."""
    return values.log().mean(dim=-1).exp()


def h_mean(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Harmonic mean of the recalls; 0 where a recall is 0."""
    return values.reciprocal().mean(dim=-1).reciprocal()


def q_mean(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """1 - sqrt(mean((1 - recall)^2))."""
    return 1.0 - (1.0 - values).square().mean(dim=-1).sqrt()


def macro_f1(counts: Tensor, context: MetricContext) -> Tensor:
    """Mean of the classes' 2 C_ii / (row sum + column sum)."""
    hits = counts.diagonal(dim1=-2, dim2=-1)
    return (2.0 * hits / (counts.sum(dim=-1) + counts.sum(dim=-2))).mean(dim=-1)


def min_precision(counts: Tensor, context: MetricContext) -> Tensor:
    """The smallest precision; a class that is never predicted counts 0."""
    columns = counts.sum(dim=-2)
    return (counts.diagonal(dim1=-2, dim2=-1) / columns.clamp_min(1.0)).amin(dim=-1)


def accuracy(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Share of the samples that are right."""
    return (values * prior).sum(dim=-1)


def balanced_error(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """1 - mean recall."""
    return 1.0 - values.mean(dim=-1)


def min_coverage(counts: Tensor, context: MetricContext) -> Tensor:
    """The smallest share of the samples that is predicted as one class."""
    return (coverage(counts) / counts.sum(dim=(-2, -1)).unsqueeze(-1)).amin(dim=-1)


def min_head_tail_coverage(counts: Tensor, context: MetricContext) -> Tensor:
    """The smaller of the mean coverages of head and tail."""
    shares, tail = coverage(counts) / counts.sum(dim=(-2, -1)).unsqueeze(-1), context.tail
    return torch.minimum(shares[..., ~tail].mean(dim=-1), shares[..., tail].mean(dim=-1))


def recall_gap(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """The largest recall minus the smallest."""
    return values.amax(dim=-1) - values.amin(dim=-1)


def cvar_recall(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Mean of the worst ``cvar_fraction`` of the recalls."""
    return cvar_of_recalls(values, context.definitions.cvar_fraction)


def weighted_recall(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Mean of the recalls with ``recall_weights``; NaN without them."""
    if context.definitions.recall_weights is None:
        return values.sum(dim=-1) * math.nan
    weights = torch.tensor(context.definitions.recall_weights, dtype=values.dtype, device=values.device)
    return (values * weights).sum(dim=-1) / weights.sum()


def cost(counts: Tensor, context: MetricContext) -> Tensor:
    """Mean cost of a sample under ``cost_matrix``; NaN without one."""
    if context.definitions.cost_matrix is None:
        return counts.sum(dim=(-2, -1)) * math.nan
    costs = torch.tensor(context.definitions.cost_matrix, dtype=counts.dtype, device=counts.device)
    return (counts * costs).sum(dim=(-2, -1)) / counts.sum(dim=(-2, -1))


def _shot_recall(least: float, most: float) -> RecallsMetric:
    def metric(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
        chosen = (context.train_counts >= least) & (context.train_counts <= most)
        return values[..., chosen.to(values.device)].mean(dim=-1)

    metric.__doc__ = (
        f"Mean recall of the classes with {least:g} to {most:g} training samples; NaN without one."
    )
    return metric


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("mean_recall", mean_recall, linear=True),
        Metric("min_recall", min_recall),
        Metric("min_head_tail_recall", min_head_tail_recall),
        Metric("g_mean", g_mean),
        Metric("h_mean", h_mean),
        Metric("q_mean", q_mean),
        Metric("cvar_recall", cvar_recall),
        Metric("weighted_recall", weighted_recall, linear=True),
        Metric("macro_f1", of_counts=macro_f1),
        Metric("min_precision", of_counts=min_precision),
        Metric("accuracy", accuracy, linear=True),
        Metric("balanced_error", balanced_error, minimise=True, linear=True),
        Metric("cost", of_counts=cost, minimise=True),
        Metric("min_coverage", of_counts=min_coverage),
        Metric("min_head_tail_coverage", of_counts=min_head_tail_coverage),
        Metric("recall_gap", recall_gap, minimise=True),
        Metric("many_shot_recall", _shot_recall(MANY_SHOT + 1, math.inf), linear=True),
        Metric("medium_shot_recall", _shot_recall(FEW_SHOT, MANY_SHOT), linear=True),
        Metric("few_shot_recall", _shot_recall(0, FEW_SHOT - 1), linear=True),
        Metric("calibration_error", minimise=True),
    )
}

COVERAGE_SUFFIXES = ("_min_head_tail_coverage", "_min_coverage")


def metric_of_objective(objective: str) -> str:
    """The metric that an objective is judged by: its plain value, without multipliers or coverage terms.

    Raises:
        ValueError: no metric goes with that name; the message lists those there are.
    """
    if is_reference(objective):
        raise ValueError(f"{objective} is a function of C: name the metric that it is judged by")
    key = objective
    if key not in METRICS:
        for suffix in COVERAGE_SUFFIXES:
            key = key.removesuffix(suffix)
    if key not in METRICS:
        raise ValueError(f"no metric goes with the objective {objective!r}; there are {', '.join(METRICS)}")
    return key


def compute_metric(key: str, counts: Tensor, context: MetricContext) -> Tensor:
    """One metric of counts, shape (...).

    Args:
        counts: shape (..., K, K).
    Raises:
        ValueError: no such metric, or one that counts do not give.
    """
    if key not in METRICS:
        raise ValueError(f"unknown metric {key!r}; there are {', '.join(METRICS)}")
    return METRICS[key].of(counts, context)


def evaluate_predictions(predictions: Predictions, context: MetricContext) -> dict[str, float]:
    """Every metric that the data allow, by key, in the order of METRICS.

    Raises:
        ValueError: a class has no sample.
    """
    counts = predictions.counts(len(context.train_counts))
    empty = torch.nonzero(counts.sum(dim=1) == 0).flatten().tolist()
    if empty:
        raise ValueError(f"every class needs a sample to be evaluated on, got none for {empty}")
    values = {}
    for key, metric in METRICS.items():
        if key == "calibration_error":
            values[key] = calibration_error(predictions.correct, predictions.confidence)
        else:
            values[key] = float(metric.of(counts, context))
    return {key: value for key, value in values.items() if not math.isnan(value)}


def calibration_error(correct: Tensor, confidence: Tensor) -> float:
    """Expected calibration error over 15 bins of equal mass.

    Args:
        correct: shape (n,), bool. confidence: shape (n,).
    Returns:
        Mean over the samples of |share correct - mean confidence| of their bin.
    """
    order = torch.argsort(confidence, stable=True)
    gaps = (correct[order].double() - confidence[order].double()).tensor_split(CALIBRATION_BINS)
    return float(sum(abs(gap.sum()) for gap in gaps) / len(order))
