"""Formulas of the metrics, each written once: on recalls, or on a confusion matrix of counts or of shares.

They take any number of leading dimensions, so that bootstrap resamples are evaluated at once, and they are
differentiable, so that the objectives of the method share them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from selmix.confusion import coverage
from selmix.definitions import DEFAULT_HEAD_FRACTION, Definitions, cvar_of_recalls

# A share of samples that is 0 but for rounding.
_NO_SPREAD = 1e-14

# Many-shot classes have more than 100 training samples, few-shot classes fewer than 20.
MANY_SHOT, FEW_SHOT = 100, 20


@dataclass(frozen=True)
class MetricContext:
    """Inputs that a metric may need in addition to the confusion matrix.

    Attributes:
        train_counts: training samples of each class, shape (K,).
        definitions: parameters of the metrics that have some.
        num_groups: A, of data with a group attribute; 0 if there is none.
        labels: class of each stratum, shape (S,); None if strata are classes.
        given_tail: mask of the tail classes, shape (K,), bool; None to derive it from the training counts.
    """

    train_counts: Tensor
    definitions: Definitions = field(default_factory=Definitions)
    num_groups: int = 0
    labels: Tensor | None = None
    given_tail: Tensor | None = None

    @property
    def tail(self) -> Tensor:
        """Mask of the tail classes, shape (K,)."""
        if self.given_tail is not None:
            return self.given_tail
        return tail_classes(len(self.train_counts), self.train_counts, self.definitions.head_fraction)

    def of_strata(self, per_class: Tensor) -> Tensor:
        """Expand values of the classes, shape (K,), to the strata, shape (S,)."""
        return per_class if self.labels is None else per_class[self.labels.to(per_class.device)]


CountsMetric = Callable[[Tensor, MetricContext], Tensor]
"""Counts or shares (..., K, K) and context -> values (...)."""

RecallsMetric = Callable[[Tensor, Tensor, MetricContext], Tensor]
"""Recalls (..., S), prior (..., S) and context -> values (...)."""


def tail_classes(
    num_classes: int, train_counts: Tensor | None = None, head_fraction: float = DEFAULT_HEAD_FRACTION
) -> Tensor:
    """Mask of the tail: all classes but the ceil(head_fraction K) with the most training samples, at least one.

    Args:
        num_classes: K.
        train_counts: shape (K,); None if the classes are in order already.
        head_fraction: share of the classes that are the head.
    Returns:
        Shape (K,), bool.
    """
    # Less 1e-9, because 0.55 * 100 is 55.00000000000001 in binary: a fraction counts as it is written.
    head = min(math.ceil(head_fraction * num_classes - 1e-9), num_classes - 1)
    order = torch.arange(num_classes)
    if train_counts is not None:
        # Stable, so that classes of equal count stay in index order on every machine.
        order = torch.argsort(train_counts.cpu(), descending=True, stable=True)
    tail = torch.zeros(num_classes, dtype=torch.bool)
    tail[order[head:]] = True
    return tail


def mean_recall(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Mean of the recalls.

    Args:
        values: recalls, shape (..., S).
        prior: pi, not read.
        context: not read.
    Returns:
        Shape (...).
    """
    return values.mean(dim=-1)


def min_recall(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Smallest recall.

    Args:
        values: recalls, shape (..., S).
        prior: pi, not read.
        context: not read.
    Returns:
        Shape (...).
    """
    return values.amin(dim=-1)


def min_head_tail_recall(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Smaller of the mean recalls of head and tail.

    Args:
        values: recalls, shape (..., S).
        prior: pi, not read.
        context: ``tail`` and ``labels`` are read.
    Returns:
        Shape (...).
    """
    tail = context.of_strata(context.tail)
    return torch.minimum(values[..., ~tail].mean(dim=-1), values[..., tail].mean(dim=-1))


def g_mean(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Geometric mean of the recalls, (prod_i recall_i)^(1 / S); 0 if a recall is 0.

    Args:
        values: recalls, shape (..., S).
        prior: pi, not read.
        context: not read.
    Returns:
        Shape (...).
    """
    # A recall of 0 needs no branch: its logarithm is -inf, and the exponential of that is 0.
    return values.log().mean(dim=-1).exp()


def h_mean(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Harmonic mean of the recalls, S / sum_i (1 / recall_i); 0 if a recall is 0.

    Args:
        values: recalls, shape (..., S).
        prior: pi, not read.
        context: not read.
    Returns:
        Shape (...).
    """
    # A recall of 0 needs no branch: its reciprocal is inf, and the reciprocal of that is 0.
    return values.reciprocal().mean(dim=-1).reciprocal()


def q_mean(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Q-mean, 1 - sqrt(mean_i (1 - recall_i)^2), with the subgradient 0 if every recall is 1.

    Args:
        values: recalls, shape (..., S).
        prior: pi, not read.
        context: not read.
    Returns:
        Shape (...).
    """
    mean_square = (1.0 - values).square().mean(dim=-1)
    # The square root has no gradient at 0: there the root of 1 is taken instead, and its value dropped.
    missed = mean_square > 0
    root = torch.where(missed, mean_square, 1.0).sqrt()
    return 1.0 - torch.where(missed, root, 0.0)


def accuracy(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Share of the samples that are predicted correctly.

    Args:
        values: recalls, shape (..., S).
        prior: pi, share of the samples in each stratum, shape (..., S).
        context: not read.
    Returns:
        Shape (...).
    """
    return (values * prior).sum(dim=-1)


def balanced_error(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """1 - mean recall.

    Args:
        values: recalls, shape (..., S).
        prior: pi, not read.
        context: not read.
    Returns:
        Shape (...).
    """
    return 1.0 - values.mean(dim=-1)


def recall_gap(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Largest recall minus the smallest.

    Args:
        values: recalls, shape (..., S).
        prior: pi, not read.
        context: not read.
    Returns:
        Shape (...).
    """
    return values.amax(dim=-1) - values.amin(dim=-1)


def cvar_recall(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Mean of the worst ``cvar_fraction`` of the recalls: less noisy than their minimum.

    Args:
        values: recalls, shape (..., S).
        prior: pi, not read.
        context: ``definitions.cvar_fraction`` is read.
    Returns:
        Shape (...).
    """
    return cvar_of_recalls(values, context.definitions.cvar_fraction)


def weighted_recall(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Mean of the recalls with ``recall_weights``, a stratum with the weight of its class; NaN without weights.

    Args:
        values: recalls, shape (..., S).
        prior: pi, not read.
        context: ``definitions.recall_weights`` and ``labels`` are read.
    Returns:
        Shape (...).
    """
    # NaN in the shape and on the device of a value: metrics that are NaN are not reported.
    if context.definitions.recall_weights is None:
        return values.sum(dim=-1) * math.nan
    weights = torch.tensor(context.definitions.recall_weights, dtype=values.dtype, device=values.device)
    weights = context.of_strata(weights)
    return (values * weights).sum(dim=-1) / weights.sum()


def shot_recall(least: float, most: float) -> RecallsMetric:
    """Make the metric that is the mean recall of the classes with ``least`` to ``most`` training samples."""

    def metric(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
        chosen = context.of_strata((context.train_counts >= least) & (context.train_counts <= most))
        return values[..., chosen.to(values.device)].mean(dim=-1)

    metric.__doc__ = (
        f"Mean recall of the classes with {least:g} to {most:g} training samples; NaN without one."
    )
    return metric


def macro_f1_of_margins(hits: Tensor, rows: Tensor, columns: Tensor, context: MetricContext) -> Tensor:
    """Macro F1: mean over the classes of 2 C_kk / (row sum + column sum)."""
    return (2.0 * hits / (rows + columns)).mean(dim=-1)


def f_beta_of_margins(hits: Tensor, rows: Tensor, columns: Tensor, context: MetricContext) -> Tensor:
    """Macro F-beta: mean over the classes of (1 + b^2) C_kk / (b^2 row sum + column sum), b of the definitions."""
    square = context.definitions.beta**2
    return ((1.0 + square) * hits / (square * rows + columns)).mean(dim=-1)


def mcc_of_margins(hits: Tensor, rows: Tensor, columns: Tensor, context: MetricContext) -> Tensor:
    """Matthews correlation coefficient of K classes, in [-1, 1]; 0 where every sample is predicted as one class.

    Source: Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient", Computational
        Biology and Chemistry 2004.
    """
    agreed, by_chance, truth, decided = _agreement(hits, rows, columns)
    spread = (1.0 - truth.square().sum(dim=-1)) * (1.0 - decided.square().sum(dim=-1))
    # The square root has no gradient at 0: there the root of 1 is taken instead, and its value dropped.
    varied = spread > _NO_SPREAD
    root = torch.where(varied, spread, 1.0).sqrt()
    return torch.where(varied, (agreed - by_chance) / root, 0.0)


def cohen_kappa_of_margins(hits: Tensor, rows: Tensor, columns: Tensor, context: MetricContext) -> Tensor:
    """Cohen's kappa, (p_o - p_e) / (1 - p_e), in [-1, 1]: agreement beyond that of independent decisions.

    Source: Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement 1960.
    """
    agreed, by_chance, _, _ = _agreement(hits, rows, columns)
    # One class alone, in truth and in decisions, agrees with itself by chance.
    varied = 1.0 - by_chance > _NO_SPREAD
    return torch.where(varied, (agreed - by_chance) / torch.where(varied, 1.0 - by_chance, 1.0), 0.0)


def _agreement(hits: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shares of the samples: hits, hits of independent decisions, each class, and decisions for each class."""
    total = columns.sum(dim=-1, keepdim=True)
    truth, decided = rows / total, columns / total
    return hits.sum(dim=-1) / total.squeeze(-1), (truth * decided).sum(dim=-1), truth, decided


def min_precision_of_margins(hits: Tensor, rows: Tensor, columns: Tensor, context: MetricContext) -> Tensor:
    """Smallest precision; a class that is never predicted counts 0."""
    # Not clamp_min(1): the columns of a C that sums to 1 lie below 1 themselves.
    return (hits / torch.where(columns > 0, columns, 1.0)).amin(dim=-1)


def min_coverage_of_margins(hits: Tensor, rows: Tensor, columns: Tensor, context: MetricContext) -> Tensor:
    """Smallest coverage: the smallest share of the samples that are predicted as one class."""
    return (columns / columns.sum(dim=-1, keepdim=True)).amin(dim=-1)


def min_head_tail_coverage_of_margins(
    hits: Tensor, rows: Tensor, columns: Tensor, context: MetricContext
) -> Tensor:
    """Smaller of the mean coverages of head and tail."""
    covered, tail = columns / columns.sum(dim=-1, keepdim=True), context.tail
    return torch.minimum(covered[..., ~tail].mean(dim=-1), covered[..., tail].mean(dim=-1))


MarginsMetric = Callable[[Tensor, Tensor, Tensor, MetricContext], Tensor]
"""Diagonal (..., K), row sums (..., K) and column sums (..., K) of counts or shares, and context -> values (...)."""

OF_MARGINS: dict[str, MarginsMetric] = {
    "macro_f1": macro_f1_of_margins,
    "f_beta": f_beta_of_margins,
    "mcc": mcc_of_margins,
    "cohen_kappa": cohen_kappa_of_margins,
    "min_precision": min_precision_of_margins,
    "min_coverage": min_coverage_of_margins,
    "min_head_tail_coverage": min_head_tail_coverage_of_margins,
}
"""Metrics of the whole matrix that its diagonal and its sums determine: 3 K numbers in place of K^2."""


def of_margins(key: str) -> CountsMetric:
    """Make a metric of counts from its formula in OF_MARGINS."""
    formula = OF_MARGINS[key]

    def metric(counts: Tensor, context: MetricContext) -> Tensor:
        hits = counts.diagonal(dim1=-2, dim2=-1)
        return formula(hits, counts.sum(dim=-1), counts.sum(dim=-2), context)

    metric.__doc__ = formula.__doc__
    return metric


macro_f1 = of_margins("macro_f1")
f_beta = of_margins("f_beta")
mcc = of_margins("mcc")
cohen_kappa = of_margins("cohen_kappa")
min_precision = of_margins("min_precision")
min_coverage = of_margins("min_coverage")
min_head_tail_coverage = of_margins("min_head_tail_coverage")


def cost(counts: Tensor, context: MetricContext) -> Tensor:
    """Mean cost of a sample, sum_kl C_kl cost[k, l] / sum_kl C_kl, under ``cost_matrix``; NaN without one."""
    if context.definitions.cost_matrix is None:
        return counts.sum(dim=(-2, -1)) * math.nan
    costs = torch.tensor(context.definitions.cost_matrix, dtype=counts.dtype, device=counts.device)
    return (counts * costs).sum(dim=(-2, -1)) / counts.sum(dim=(-2, -1))


def shares(counts: Tensor) -> Tensor:
    """Share of the samples that are predicted as each class, shape (..., K)."""
    # Divided by the sum, so that counts and shares give the same.
    return coverage(counts) / counts.sum(dim=(-2, -1)).unsqueeze(-1)
