"""The metric keys of the product, listed once: the same words in sweep files, MLflow, tables and pins.

Every metric is a fraction computed on raw counts. Those of counts take any number of leading dimensions, so that
bootstrap resamples are evaluated at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from selmix.confusion import confusion_counts, recalls
from selmix.groups import GROUP_METRICS, strata_of
from selmix.metric_functions import (
    FEW_SHOT,
    MANY_SHOT,
    CountsMetric,
    MetricContext,
    RecallsMetric,
    accuracy,
    balanced_error,
    cost,
    cvar_recall,
    g_mean,
    h_mean,
    macro_f1,
    mean_recall,
    min_coverage,
    min_head_tail_coverage,
    min_head_tail_recall,
    min_precision,
    min_recall,
    q_mean,
    recall_gap,
    shot_recall,
    weighted_recall,
)
from selmix.user_code import is_reference

__all__ = [
    "COVERAGE_SUFFIXES", "METRICS", "CountsMetric", "Metric", "MetricContext", "Predictions", "RecallsMetric",
    "calibration_error", "compute_metric", "evaluate_predictions", "metric_of_objective",
]  # fmt: skip

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        key: its name. minimise: whether less is better.
        of_recalls: recalls (..., K), prior (K,) and context -> (...), where recalls and prior are enough.
        of_counts: counts (..., K, K), float64, and context -> (...), where they are not.
        of_cells: counts of (class, group) cells (..., K A, K), float64, and A -> (...), for a metric of groups.
        linear: whether it is a weighted mean of the recalls (or 1 minus one).
        Neither is set for ``calibration_error``, which counts do not give.
    """

    key: str
    of_recalls: RecallsMetric | None = None
    of_counts: CountsMetric | None = None
    of_cells: Callable[[Tensor, int], Tensor] | None = None
    minimise: bool = False
    linear: bool = False

    def of(self, counts: Tensor, context: MetricContext) -> Tensor:
        """The metric of counts (..., K, K), of a metric of groups (..., K A, K); shape (...).

        Raises:
            ValueError: counts do not give this metric.
        """
        counts = counts.double()
        if self.of_recalls is not None:
            rows = counts.sum(dim=-1)
            return self.of_recalls(recalls(counts), rows / rows.sum(dim=-1, keepdim=True), context)
        if self.of_counts is not None:
            return self.of_counts(counts, context)
        if self.of_cells is not None and context.num_groups:
            return self.of_cells(counts, context.num_groups)
        needs = "a group attribute" if self.of_cells is not None else "the confidences"
        raise ValueError(f"{self.key} is no metric of counts: it needs {needs}")


@dataclass(frozen=True)
class Predictions:
    """What a model says of a split.

    Attributes:
        labels, predicted: shape (n,), int64. confidence: of the predicted class, shape (n,), float32.
        groups: of each sample, shape (n,), int64; None where the data have none.
    """

    labels: Tensor
    predicted: Tensor
    confidence: Tensor
    groups: Tensor | None = None

    @classmethod
    def from_logits(cls, labels: Tensor, logits: Tensor, groups: Tensor | None = None) -> Predictions:
        """Predictions on the CPU from logits of shape (n, K)."""
        confidence, predicted = torch.softmax(logits.float(), dim=1).max(dim=1)
        return cls(labels.cpu(), predicted.cpu(), confidence.cpu(), None if groups is None else groups.cpu())

    @property
    def correct(self) -> Tensor:
        return self.labels == self.predicted

    def counts(self, num_classes: int) -> Tensor:
        """Confusion counts, shape (K, K), int64."""
        return confusion_counts(self.labels, self.predicted, num_classes, num_classes)

    def counts_for(self, key: str, context: MetricContext) -> Tensor:
        """The counts that a metric is of: (K, K), or those of the cells, (K A, K).

        Raises:
            ValueError: a metric of groups, and the data have none.
        """
        classes, groups = len(context.train_counts), context.num_groups
        if METRICS[key].of_cells is None:
            return self.counts(classes)
        if self.groups is None or not groups:
            raise ValueError(f"{key} needs data with a group attribute")
        return confusion_counts(self.strata(groups), self.predicted, classes * groups, classes)

    def strata(self, num_groups: int) -> Tensor:
        """(class, group) cell of each sample, shape (n,); its class where the data have no groups."""
        if self.groups is None:
            return self.labels
        return strata_of(self.labels, self.groups, num_groups)


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
        *(
            Metric(key, of_cells=of_cells, minimise=key != "worst_group_recall")
            for key, of_cells in GROUP_METRICS.items()
        ),
        Metric("many_shot_recall", shot_recall(MANY_SHOT + 1, math.inf), linear=True),
        Metric("medium_shot_recall", shot_recall(FEW_SHOT, MANY_SHOT), linear=True),
        Metric("few_shot_recall", shot_recall(0, FEW_SHOT - 1), linear=True),
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
        elif metric.of_cells is None:
            values[key] = float(metric.of(counts, context))
        elif predictions.groups is not None and context.num_groups:
            values[key] = float(metric.of(predictions.counts_for(key, context), context))
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
