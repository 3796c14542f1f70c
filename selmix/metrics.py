"""Metrics by key, listed once: the same keys in sweep files, MLflow, tables and pins.

Every metric is a fraction computed on raw counts. Metrics of counts take any number of leading dimensions, so that
bootstrap resamples are evaluated at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from selmix.confusion import class_confusion, confusion_counts, precisions, recalls
from selmix.definitions import ClassRate, Definitions
from selmix.groups import (
    demographic_parity_gap,
    equal_opportunity_gap,
    equalized_odds_gap,
    one_vs_rest_odds_gap,
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
    cohen_kappa,
    cost,
    cvar_recall,
    f_beta,
    g_mean,
    h_mean,
    macro_f1,
    mcc,
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
from selmix.metric_keys import is_own
from selmix.own_metrics import own_function

__all__ = [
    "METRICS", "CountsMetric", "Metric", "MetricContext", "Predictions", "RecallsMetric", "calibration_error",
    "class_metric", "compute_metric", "evaluate_predictions", "metric_named", "own_metric",
]  # fmt: skip

CALIBRATION_BINS = 15
_ROWS_AT_ONCE = 2**16


@dataclass(frozen=True)
class Metric:
    """One metric: a new metric needs its formula and an entry of :data:`METRICS`.

    Exactly one of the four ``of_*`` is set: the formula, by what the metric is computed from.

    Attributes:
        key: name of the metric.
        of_recalls: recalls (..., S), prior (..., S) and context -> (...), if recalls and prior are enough.
        of_counts: counts or shares (..., K, K) and context -> (...), if the whole matrix is needed.
        of_cells: counts of (class, group) cells (..., K A, K) and A -> (...), for a metric of groups.
        of_predictions: predictions -> value, for a metric that a confusion matrix does not determine.
        minimise: True if less is better.
        linear: True if it is a weighted mean of the recalls (or 1 minus one).
        least_of: C (S, K) and context -> the values that the metric is the minimum of, shape (G,): a floor on the
            metric is a floor on each. None if it is no such minimum.
        proportion: counts (K, K) -> hits and trials, both shape (), if it is a single proportion of samples: its
            interval is exact then. None for any other.
        needs: field of Definitions without which the metric is not defined; None if it needs none.
        by_train_counts: True if the training counts decide which classes the metric is of.
        by_scores: True if ``of_predictions`` needs the probabilities of all classes, which a sweep does not keep.
    """

    key: str
    of_recalls: RecallsMetric | None = None
    of_counts: CountsMetric | None = None
    of_cells: Callable[[Tensor, int], Tensor] | None = None
    of_predictions: Callable[[Predictions], float] | None = None
    minimise: bool = False
    linear: bool = False
    least_of: Callable[[Tensor, MetricContext], Tensor] | None = None
    proportion: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    needs: str | None = None
    by_train_counts: bool = False
    by_scores: bool = False

    @property
    def sign(self) -> float:
        """Sign of the metric in a score: 1 if higher is better, -1 if less is."""
        return -1.0 if self.minimise else 1.0

    def of(self, counts: Tensor, context: MetricContext) -> Tensor:
        """Compute the metric from counts (..., K, K), or (..., K A, K) for a metric of groups; shape (...).

        Raises:
            ValueError: counts do not determine this metric.
        """
        # In float64: ratios of counts should not depend on the dtype that the counts come in.
        return self.of_matrix(counts.double(), context)

    def of_matrix(self, confusion: Tensor, context: MetricContext) -> Tensor:
        """Compute the metric from a confusion matrix on any scale, counts or shares, in the matrix's own dtype.

        Args:
            confusion: shape (..., S, K); the rows are strata if ``context.labels`` is set, else classes.
            context: further inputs of the metric.
        Returns:
            Shape (...).
        Raises:
            ValueError: a confusion matrix does not determine this metric.
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
    """Predictions of a model on a split.

    Attributes:
        labels: true class of each sample, shape (n,), int64.
        predicted: predicted class of each sample, shape (n,), int64.
        confidence: softmax probability of the predicted class, shape (n,), float32.
        groups: group of each sample, shape (n,), int64; None if the data have none.
        log_probabilities: natural logarithms of the probabilities of all classes, shape (n, K); None where they are not
            kept, as in a sweep: K numbers a sample and trial.
    """

    labels: Tensor
    predicted: Tensor
    confidence: Tensor
    groups: Tensor | None = None
    log_probabilities: Tensor | None = None

    @classmethod
    def from_logits(cls, labels: Tensor, logits: Tensor, groups: Tensor | None = None) -> Predictions:
        """Make predictions, on the CPU, from logits.

        Args:
            labels: true class of each sample, shape (n,).
            logits: shape (n, K).
            groups: group of each sample, shape (n,); None if the data have none.
        """
        confidence, predicted = torch.softmax(logits.float(), dim=1).max(dim=1)
        return cls(labels.cpu(), predicted.cpu(), confidence.cpu(), None if groups is None else groups.cpu())

    @property
    def correct(self) -> Tensor:
        """True where the label was predicted, shape (n,)."""
        return self.labels == self.predicted

    def take(self, index: Tensor) -> Predictions:
        """Select the samples at ``index``, which may repeat some."""
        groups = None if self.groups is None else self.groups[index]
        scores = None if self.log_probabilities is None else self.log_probabilities[index]
        return Predictions(self.labels[index], self.predicted[index], self.confidence[index], groups, scores)

    def value(self, metric: Metric, context: MetricContext) -> float:
        """Compute a metric of these predictions.

        Raises:
            ValueError: a metric of groups on data without groups, or one of the scores without scores.
        """
        if metric.of_predictions is not None:
            return metric.of_predictions(self)
        return float(metric.of(self.counts_for(metric.key, context), context))

    def counts(self, num_classes: int) -> Tensor:
        """Confusion counts, shape (K, K), int64."""
        return confusion_counts(self.labels, self.predicted, num_classes, num_classes)

    def counts_for(self, key: str, context: MetricContext) -> Tensor:
        """Count as a metric needs it: by class, shape (K, K), or by (class, group) cell, shape (K A, K).

        Raises:
            ValueError: a metric of groups on data without groups.
        """
        classes, groups = len(context.train_counts), context.num_groups
        if metric_named(key, context.definitions).of_cells is None:
            return self.counts(classes)
        if self.groups is None or not groups:
            raise ValueError(f"{key} needs data with a group attribute")
        return confusion_counts(self.strata(groups), self.predicted, classes * groups, classes)

    def strata(self, num_groups: int) -> Tensor:
        """(class, group) cell of each sample, shape (n,); its class if the data have no groups."""
        if self.groups is None:
            return self.labels
        return strata_of(self.labels, self.groups, num_groups)


def least_recall(confusion: Tensor, context: MetricContext) -> Tensor:
    """Recall of each class."""
    return recalls(class_confusion(confusion, context.labels))


def least_cell_recall(confusion: Tensor, context: MetricContext) -> Tensor:
    """Recall of each (class, group) cell."""
    return recalls(confusion, context.labels)


def least_precision(confusion: Tensor, context: MetricContext) -> Tensor:
    """Precision of each class."""
    return precisions(class_confusion(confusion, context.labels))


def least_coverage(confusion: Tensor, context: MetricContext) -> Tensor:
    """Coverage of each class."""
    # Column sums: the strata of a class need not be added up first.
    return shares(confusion)


def least_head_tail_coverage(confusion: Tensor, context: MetricContext) -> Tensor:
    """Mean coverage of head and of tail."""
    return head_and_tail(confusion, context) @ shares(confusion)


def head_and_tail(confusion: Tensor, context: MetricContext) -> Tensor:
    """Averaging matrix of head and tail, shape (2, K): entries 1 / |g| on a group's classes; no row if it is empty."""
    tail = context.tail
    members = torch.stack([~tail, tail]).to(confusion)
    sizes = members.sum(dim=1, keepdim=True)
    # The row of an empty group is 0 / 0.
    return (members / sizes)[sizes.squeeze(1) > 0]


def calibration_bins(predictions: Predictions) -> Iterator[tuple[Tensor, Tensor]]:
    """Correctness (0 or 1) and confidence of the samples of each bin of equal mass, float64, by rising confidence."""
    # Stable, so that equal confidences fall into the same bins on every machine.
    order = torch.argsort(predictions.confidence, stable=True)
    for members in order.tensor_split(CALIBRATION_BINS):
        yield _bin(predictions, members)


def calibration_bins_of_equal_width(predictions: Predictions) -> Iterator[tuple[Tensor, Tensor]]:
    """:func:`calibration_bins` of equal width in the confidence, (b / 15, (b + 1) / 15]; some may be empty."""
    # In one byte each, and in parts: a large table is not held several times.
    place = torch.empty(len(predictions.labels), dtype=torch.uint8)
    for rows in _parts(len(place)):
        above = (predictions.confidence[rows].double() * CALIBRATION_BINS).ceil().long() - 1
        place[rows] = above.clamp(0, CALIBRATION_BINS - 1).byte()
    for b in range(CALIBRATION_BINS):
        yield _bin(predictions, torch.nonzero(place == b).flatten())


def _bin(predictions: Predictions, members: Tensor) -> tuple[Tensor, Tensor]:
    """Correctness (0 or 1) and confidence of some samples, both float64."""
    correct = predictions.labels[members] == predictions.predicted[members]
    return correct.double(), predictions.confidence[members].double()


def _parts(total: int) -> Iterator[slice]:
    """Rows in parts: what is worked on beside a large table stays small."""
    for start in range(0, total, _ROWS_AT_ONCE):
        yield slice(start, start + _ROWS_AT_ONCE)


def calibration_error(predictions: Predictions) -> float:
    """Expected calibration error over 15 bins of equal mass.

    Returns:
        Mean over the samples of |share correct - mean confidence| of their bin.
    """
    return _binned_error(predictions, calibration_bins(predictions))


def calibration_error_equal_width(predictions: Predictions) -> float:
    """Expected calibration error over 15 bins of equal width, as in Guo et al., ICML 2017.

    Returns:
        Mean over the samples of |share correct - mean confidence| of their bin.
    """
    return _binned_error(predictions, calibration_bins_of_equal_width(predictions))


def _binned_error(predictions: Predictions, bins: Iterable[tuple[Tensor, Tensor]]) -> float:
    # The sum of a bin's gaps, divided by n, is the bin's share of the samples times its mean gap.
    return float(
        sum(abs((correct - confidence).sum()) for correct, confidence in bins) / len(predictions.labels)
    )


# As scikit-learn bounds it: a label of probability 0 costs 36 nats, not infinitely many.
LEAST_LOG_PROBABILITY = math.log(torch.finfo(torch.float64).eps)


def log_probabilities_of(predictions: Predictions) -> Tensor:
    """Logarithms of the probabilities of all classes, shape (n, K).

    Raises:
        ValueError: the predictions have none.
    """
    if predictions.log_probabilities is None:
        raise ValueError(
            "a metric of the scores needs the scores of all classes, these predictions have none"
        )
    return predictions.log_probabilities


def log_losses(predictions: Predictions) -> Tensor:
    """Minus the logarithm of each label's probability, in nats, at most 36.04; shape (n,), float64."""
    scores = log_probabilities_of(predictions)
    chosen = scores.gather(1, predictions.labels.unsqueeze(1)).squeeze(1).double()
    return -chosen.clamp_min(LEAST_LOG_PROBABILITY)


def squared_errors(predictions: Predictions) -> Tensor:
    """Squared distance of each sample's probabilities from its label, halved for two classes; shape (n,), float64."""
    scores = log_probabilities_of(predictions)
    total = torch.empty(len(scores), dtype=torch.float64)
    # In parts: the probabilities of a large table are never held at once.
    for start in range(0, len(scores), _ROWS_AT_ONCE):
        p = scores[start : start + _ROWS_AT_ONCE].double().exp()
        labels = predictions.labels[start : start + _ROWS_AT_ONCE].unsqueeze(1)
        total[start : start + len(p)] = p.square().sum(dim=1) - 2.0 * p.gather(1, labels).squeeze(1) + 1.0
    return total / 2.0 if scores.shape[1] == 2 else total


def log_loss(predictions: Predictions) -> float:
    """Mean of minus the logarithm of the label's probability, in nats."""
    return float(log_losses(predictions).mean())


def brier_score(predictions: Predictions) -> float:
    """Mean squared distance of the probabilities from the label: in [0, 2], and in [0, 1] of two classes.

    Source: Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 1950; halved
        for two classes, as scikit-learn has it.
    """
    return float(squared_errors(predictions).mean())


def ranked_classes(num_classes: int) -> range:
    """Classes whose rankings count: of two the second, the positive one, alone."""
    return range(1, 2) if num_classes == 2 else range(num_classes)


def auroc(predictions: Predictions) -> float:
    """Mean over the classes of the area under the curve of each against the rest, ties one half."""
    scores = log_probabilities_of(predictions)
    areas = []
    for k in ranked_classes(scores.shape[1]):
        positive = predictions.labels == k
        others = sorted_values(scores[:, k], ~positive)
        # Halves, so that the sum is exact in any order.
        total = sum(
            float((below + 0.5 * equal).sum())
            for _, below, equal in placed_parts(scores[:, k], positive, others)
        )
        areas.append(total / float(positive.sum()) / float(len(others)))
    return sum(areas) / len(areas)


def placements(values: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Samples of the other kind, of positive ones the negative ones, below each sample and equal to it.

    Args:
        values: scores of one class, shape (n,).
        positive: True for samples of that class, shape (n,).
    Returns:
        Two counts, each of shape (n,), float64.
    """
    below, equal = (torch.empty(len(values), dtype=torch.float64) for _ in range(2))
    for side in (positive, ~positive):
        for members, low, same in placed_parts(values, side, sorted_values(values, ~side)):
            below[members], equal[members] = low, same
    return below, equal


def sorted_values(values: Tensor, chosen: Tensor) -> Tensor:
    """Chosen ones of some values, the least first."""
    # numpy's sort keeps no places beside the values, and is done in their own memory.
    kept = values[chosen].numpy()
    kept.sort()
    return torch.from_numpy(kept)


def placed_parts(values: Tensor, chosen: Tensor, others: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Chosen ones of some values, in parts: their places, how many of the others are below, and how many are equal.

    Args:
        values: shape (n,).
        chosen: True for those that are placed, shape (n,).
        others: sorted.
    Yields:
        Three tensors of one shape (m,); the counts are float64.
    """
    for rows in _parts(len(values)):
        members = torch.nonzero(chosen[rows]).flatten() + rows.start
        ours = values[members].contiguous()
        low, high = (torch.searchsorted(others, ours, right=right) for right in (False, True))
        yield members, low.double(), (high - low).double()


def average_precision(predictions: Predictions) -> float:
    """Mean over the classes of the average precision of each against the rest, sum_n (R_n - R_{n-1}) P_n.

    Of two classes it is that of the second, the positive one, as scikit-learn has it.
    """
    scores = log_probabilities_of(predictions)
    found = []
    for k in ranked_classes(scores.shape[1]):
        positive = predictions.labels == k
        ours, others = (sorted_values(scores[:, k], side) for side in (positive, ~positive))
        # The recall rises at the scores of positive samples alone; equal scores are one threshold. So the sum is the
        # mean over these samples of the precision at their own scores.
        total = 0.0
        for rows in _parts(len(ours)):
            hits, misses = (
                len(side) - torch.searchsorted(side, ours[rows]).double() for side in (ours, others)
            )
            total += float((hits / (hits + misses)).sum())
        found.append(total / len(ours))
    return sum(found) / len(found)


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
        Metric("f_beta", of_counts=f_beta),
        Metric("mcc", of_counts=mcc),
        Metric("cohen_kappa", of_counts=cohen_kappa),
        Metric("min_precision", of_counts=min_precision, least_of=least_precision),
        Metric("accuracy", accuracy, linear=True),
        Metric("balanced_accuracy", mean_recall, linear=True),
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
        Metric("one_vs_rest_odds_gap", of_cells=one_vs_rest_odds_gap, minimise=True),
        Metric("demographic_parity_gap", of_cells=demographic_parity_gap, minimise=True),
        Metric("many_shot_recall", shot_recall(MANY_SHOT + 1, math.inf), linear=True, by_train_counts=True),
        Metric("medium_shot_recall", shot_recall(FEW_SHOT, MANY_SHOT), linear=True, by_train_counts=True),
        Metric("few_shot_recall", shot_recall(0, FEW_SHOT - 1), linear=True, by_train_counts=True),
        Metric("calibration_error", of_predictions=calibration_error, minimise=True),
        Metric("calibration_error_equal_width", of_predictions=calibration_error_equal_width, minimise=True),
        Metric("log_loss", of_predictions=log_loss, minimise=True, by_scores=True),
        Metric("brier_score", of_predictions=brier_score, minimise=True, by_scores=True),
        Metric("auroc", of_predictions=auroc, by_scores=True),
        Metric("average_precision", of_predictions=average_precision, by_scores=True),
    )
}  # fmt: skip
"""Key -> metric, in the order in which metrics are reported."""


def metric_named(key: str, definitions: Definitions | None = None) -> Metric:
    """Look up a metric by its key.

    Args:
        key: of METRICS, of a class rate of ``definitions``, or ``module:function`` of the user's own.
        definitions: that may have rates of single classes; None for none.
    Raises:
        ValueError: there is no such metric, and the message lists all keys; or no such function.
    """
    if key in METRICS:
        return METRICS[key]
    if is_own(key):
        return own_metric(key)
    rates = {each.key: each for each in definitions.class_rates} if definitions is not None else {}
    if key not in rates:
        raise ValueError(f"unknown metric {key!r}; there are {', '.join((*METRICS, *rates))}")
    return class_metric(rates[key])


def own_metric(reference: str) -> Metric:
    """The metric that is a function of the user's own, ``module:function``.

    Raises:
        ValueError: there is no such function.
    """
    function = own_function(reference)
    return Metric(reference, of_counts=function, minimise=function.minimise)


def class_metric(rate: ClassRate) -> Metric:
    """The metric that is the recall or the precision of one class; a precision without predictions counts 0."""
    label, along = rate.label, -1 if rate.rate == "recall" else -2

    def proportion(counts: Tensor) -> tuple[Tensor, Tensor]:
        return counts[..., label, label], counts.sum(dim=along)[..., label]

    def of_counts(counts: Tensor, context: MetricContext) -> Tensor:
        hits, trials = proportion(counts)
        return hits / torch.where(trials > 0, trials, 1.0)

    return Metric(rate.key, of_counts=of_counts, proportion=proportion)


def compute_metric(key: str, counts: Tensor, context: MetricContext) -> Tensor:
    """Compute one metric from counts.

    Args:
        key: a key of METRICS.
        counts: shape (..., K, K), or (..., K A, K) for a metric of groups.
        context: further inputs of the metric.
    Returns:
        Shape (...).
    Raises:
        ValueError: there is no such metric, or counts do not determine it.
    """
    return metric_named(key).of(counts, context)


def evaluate_predictions(predictions: Predictions, context: MetricContext) -> dict[str, float]:
    """Compute every metric that the data allow, by key, in the order of METRICS; then those of single classes, and
    those of the user's own.

    Raises:
        ValueError: a class has no sample, or a function of the user's own gives no number.
    """
    counts = predictions.counts(len(context.train_counts))
    empty = torch.nonzero(counts.sum(dim=1) == 0).flatten().tolist()
    if empty:
        raise ValueError(f"every class needs a sample to be evaluated on, got none for {empty}")
    values = {}
    of_classes = [class_metric(rate) for rate in context.definitions.class_rates]
    own = [own_metric(reference) for reference in context.definitions.own_metrics]
    for metric in (*METRICS.values(), *of_classes, *own):
        key = metric.key
        if metric.by_scores and predictions.log_probabilities is None:
            continue
        if metric.of_predictions is not None:
            values[key] = metric.of_predictions(predictions)
        elif metric.of_cells is None:
            values[key] = float(metric.of(counts, context))
        elif predictions.groups is not None and context.num_groups:
            values[key] = float(metric.of(predictions.counts_for(key, context), context))
    # NaN: a metric without its definition, or of classes that the data do not have (such as few-shot ones).
    return {key: value for key, value in values.items() if not math.isnan(value)}
