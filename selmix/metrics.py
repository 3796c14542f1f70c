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

from selmix.confusion import class_confusion, confusion_counts, precisions, recalls
from selmix.groups import (
    demographic_parity_gap,
    equal_opportunity_gap,
    equalized_odds_gap,
    strata_of,
    worst_group_recall,
)
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
    shares,
    shot_recall,
    weighted_recall,
)

__all__ = [
    "METRICS", "CountsMetric", "Metric", "MetricContext", "Predictions", "RecallsMetric", "calibration_error",
    "compute_metric", "evaluate_predictions", "metric_named",
]  # fmt: skip

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Metric:
    """One metric: an entry of :data:`METRICS` is all that a new one needs beside its formula.

    Exactly one of the four ``of_*`` is set: what the metric is computed from.

    Attributes:
        key: its name.
        of_recalls: recalls (..., S), prior (S,) and context -> (...), where recalls and prior are enough.
        of_counts: counts or shares (..., K, K) and context -> (...), where they are not.
        of_cells: counts of (class, group) cells (..., K A, K) and A -> (...), for a metric of groups.
        of_predictions: predictions -> value, for what a confusion matrix does not give.
        minimise: True if less is better.
        linear: True if it is a weighted mean of the recalls (or 1 minus one).
        least_of: C (S, K) and context -> the values that the metric is the least of, shape (G,), and the number of
            classes behind each, shape (G,): a floor on the metric is a floor on each. None: it is no such minimum.
        needs: the field of Definitions without which it is not defined; None: it needs none.
        by_train_counts: True if the training counts decide which classes it is of.
    """

    key: str
    of_recalls: RecallsMetric | None = None
    of_counts: CountsMetric | None = None
    of_cells: Callable[[Tensor, int], Tensor] | None = None
    of_predictions: Callable[[Predictions], float] | None = None
    minimise: bool = False
    linear: bool = False
    least_of: Callable[[Tensor, MetricContext], tuple[Tensor, Tensor]] | None = None
    needs: str | None = None
    by_train_counts: bool = False

    @property
    def sign(self) -> float:
        """1 where higher is better, -1 where less is."""
        return -1.0 if self.minimise else 1.0

    def of(self, counts: Tensor, context: MetricContext) -> Tensor:
        """The metric of counts (..., K, K), of a metric of groups (..., K A, K); shape (...).

        Raises:
            ValueError: counts do not give this metric.
        """
        return self.of_matrix(counts.double(), context)

    def of_matrix(self, confusion: Tensor, context: MetricContext) -> Tensor:
        """The metric of a confusion matrix on any scale, counts or shares, in the matrix's own precision.

        Args:
            confusion: shape (..., S, K), rows strata where ``context.labels`` says so.
            context: what the metric may need beside it.
        Raises:
            ValueError: a confusion matrix does not give this metric.
        """
        if self.of_recalls is not None:
            rows = confusion.sum(dim=-1)
            prior = rows / rows.sum(dim=-1, keepdim=True)
            return self.of_recalls(recalls(confusion, context.labels), prior, context)
        if self.of_counts is not None:
            return self.of_counts(class_confusion(confusion, context.labels), context)
        if self.of_cells is not None and context.num_groups:
            return self.of_cells(confusion, context.num_groups)
        needs = "a group attribute" if self.of_cells is not None else "the confidences"
        raise ValueError(f"{self.key} is no metric of counts: it needs {needs}")


@dataclass(frozen=True)
class Predictions:
    """Answers of a model on a split.

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
        """True where the label was predicted, shape (n,)."""
        return self.labels == self.predicted

    def take(self, index: Tensor) -> Predictions:
        """The samples at ``index``, which may repeat some."""
        groups = None if self.groups is None else self.groups[index]
        return Predictions(self.labels[index], self.predicted[index], self.confidence[index], groups)

    def value(self, metric: Metric, context: MetricContext) -> float:
        """A metric of these predictions.

        Raises:
            ValueError: a metric of groups, and the data have none.
        """
        if metric.of_predictions is not None:
            return metric.of_predictions(self)
        return float(metric.of(self.counts_for(metric.key, context), context))

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


def least_recall(confusion: Tensor, context: MetricContext) -> tuple[Tensor, Tensor]:
    """Recall of each class, and one class behind each."""
    return _one_each(recalls(class_confusion(confusion, context.labels)))


def least_cell_recall(confusion: Tensor, context: MetricContext) -> tuple[Tensor, Tensor]:
    """Recall of each (class, group) cell."""
    return _one_each(recalls(confusion, context.labels))


def least_precision(confusion: Tensor, context: MetricContext) -> tuple[Tensor, Tensor]:
    """Precision of each class."""
    return _one_each(precisions(class_confusion(confusion, context.labels)))


def least_coverage(confusion: Tensor, context: MetricContext) -> tuple[Tensor, Tensor]:
    """Coverage of each class."""
    return _one_each(shares(confusion))


def least_head_tail_coverage(confusion: Tensor, context: MetricContext) -> tuple[Tensor, Tensor]:
    """Mean coverage of head and of tail, and the number of classes in each."""
    groups = head_and_tail(confusion, context)
    return groups @ shares(confusion), (groups > 0).sum(dim=1).to(confusion)


def head_and_tail(confusion: Tensor, context: MetricContext) -> Tensor:
    """Rows: head and tail, entries 1 / |g| on the group's classes, shape (2, K); an empty group is left out."""
    tail = context.tail
    members = torch.stack([~tail, tail]).to(confusion)
    sizes = members.sum(dim=1, keepdim=True)
    return (members / sizes)[sizes.squeeze(1) > 0]


def _one_each(values: Tensor) -> tuple[Tensor, Tensor]:
    return values, torch.ones_like(values)


def calibration_error(predictions: Predictions) -> float:
    """Expected calibration error over 15 bins of equal mass.

    Returns:
        Mean over the samples of |share correct - mean confidence| of their bin.
    """
    correct, confidence = predictions.correct, predictions.confidence
    order = torch.argsort(confidence, stable=True)
    gaps = (correct[order].double() - confidence[order].double()).tensor_split(CALIBRATION_BINS)
    return float(sum(abs(gap.sum()) for gap in gaps) / len(order))


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("mean_recall", mean_recall, linear=True),
        Metric("min_recall", min_recall, least_of=least_recall),
        Metric("min_head_tail_recall", min_head_tail_recall, by_train_counts=True),
        Metric("g_mean", g_mean),
        Metric("h_mean", h_mean),
        Metric("q_mean", q_mean),
        Metric("cvar_recall", cvar_recall),
        Metric("weighted_recall", weighted_recall, linear=True, needs="recall_weights"),
        Metric("macro_f1", of_counts=macro_f1),
        Metric("min_precision", of_counts=min_precision, least_of=least_precision),
        Metric("accuracy", accuracy, linear=True),
        Metric("balanced_error", balanced_error, minimise=True, linear=True),
        Metric("cost", of_counts=cost, minimise=True, needs="cost_matrix"),
        Metric("min_coverage", of_counts=min_coverage, least_of=least_coverage),
        Metric(
            "min_head_tail_coverage", of_counts=min_head_tail_coverage, least_of=least_head_tail_coverage,
            by_train_counts=True,
        ),
        Metric("recall_gap", recall_gap, minimise=True),
        Metric("worst_group_recall", of_cells=worst_group_recall, least_of=least_cell_recall),
        Metric("equal_opportunity_gap", of_cells=equal_opportunity_gap, minimise=True),
        Metric("equalized_odds_gap", of_cells=equalized_odds_gap, minimise=True),
        Metric("demographic_parity_gap", of_cells=demographic_parity_gap, minimise=True),
        Metric("many_shot_recall", shot_recall(MANY_SHOT + 1, math.inf), linear=True, by_train_counts=True),
        Metric("medium_shot_recall", shot_recall(FEW_SHOT, MANY_SHOT), linear=True, by_train_counts=True),
        Metric("few_shot_recall", shot_recall(0, FEW_SHOT - 1), linear=True, by_train_counts=True),
        Metric("calibration_error", of_predictions=calibration_error, minimise=True),
    )
}  # fmt: skip


def metric_named(key: str) -> Metric:
    """The metric of that name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if key not in METRICS:
        raise ValueError(f"unknown metric {key!r}; there are {', '.join(METRICS)}")
    return METRICS[key]


def compute_metric(key: str, counts: Tensor, context: MetricContext) -> Tensor:
    """One metric of counts, shape (...).

    Args:
        key: of METRICS.
        counts: shape (..., K, K).
        context: what the metric may need beside them.
    Raises:
        ValueError: no such metric, or one that counts do not give.
    """
    return metric_named(key).of(counts, context)


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
        if metric.of_predictions is not None:
            values[key] = metric.of_predictions(predictions)
        elif metric.of_cells is None:
            values[key] = float(metric.of(counts, context))
        elif predictions.groups is not None and context.num_groups:
            values[key] = float(metric.of(predictions.counts_for(key, context), context))
    return {key: value for key, value in values.items() if not math.isnan(value)}
