"""The formulas of the metrics, each written once: on recalls, or on a confusion matrix of counts or of shares.

They take any number of leading dimensions, so that bootstrap resamples are evaluated at once, and they are
differentiable, so that the objectives of the method are the same formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from selmix.confusion import coverage, precisions
from selmix.definitions import DEFAULT_HEAD_FRACTION, Definitions, cvar_of_recalls

MANY_SHOT, FEW_SHOT = 100, 20


@dataclass(frozen=True)
class MetricContext:
    """Knowledge that a metric may need beside the confusion matrix.

    Attributes:
        train_counts: training samples of each class, shape (K,).
        definitions: numbers that the metrics with parameters take.
        num_groups: A, of data with a group attribute; 0: there is none.
        labels: class of each stratum, shape (S,), where recalls are those of strata; None: strata are classes.
        given_tail: mask of the tail classes, shape (K,), bool; None: told by the training counts.
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
        """Values of classes, shape (K,), as those of the strata, shape (S,)."""
        return per_class if self.labels is None else per_class[self.labels.to(per_class.device)]


CountsMetric = Callable[[Tensor, MetricContext], Tensor]
RecallsMetric = Callable[[Tensor, Tensor, MetricContext], Tensor]


def tail_classes(
    num_classes: int, train_counts: Tensor | None = None, head_fraction: float = DEFAULT_HEAD_FRACTION
) -> Tensor:
    """Mask of the tail: all but the first ceil(head_fraction K) classes by training count, at least one class.

    Args:
        num_classes: K.
        train_counts: shape (K,); None: the classes stand in order already.
        head_fraction: share of the classes that are the head.
    Returns:
        Shape (K,), bool.
    """
    # Less a hair: 0.55 * 100 is 55.00000000000001 in binary, and 55 as it is written.
    head = min(math.ceil(head_fraction * num_classes - 1e-9), num_classes - 1)
    order = torch.arange(num_classes)
    if train_counts is not None:
        # Stable, so that classes of equal count are dealt in index order on every machine.
        order = torch.argsort(train_counts.cpu(), descending=True, stable=True)
    tail = torch.zeros(num_classes, dtype=torch.bool)
    tail[order[head:]] = True
    return tail


def mean_recall(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Mean of the recalls."""
    return values.mean(dim=-1)


def min_recall(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Smallest recall."""
    return values.amin(dim=-1)


def min_head_tail_recall(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Smaller of the mean recalls of head and tail."""
    tail = context.of_strata(context.tail)
    return torch.minimum(values[..., ~tail].mean(dim=-1), values[..., tail].mean(dim=-1))


def g_mean(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Geometric mean of the recalls, (prod_i recall_i)^(1 / S); 0 where a recall is 0."""
    return values.log().mean(dim=-1).exp()


def h_mean(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Harmonic mean of the recalls, S / sum_i (1 / recall_i); 0 where a recall is 0."""
    return values.reciprocal().mean(dim=-1).reciprocal()


def q_mean(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """1 - sqrt(mean_i (1 - recall_i)^2), with the subgradient 0 where every recall is 1."""
    mean_square = (1.0 - values).square().mean(dim=-1)
    # A square root has no gradient at 0: it is taken of 1 there, and what it gives is not used.
    missed = mean_square > 0
    root = torch.where(missed, mean_square, 1.0).sqrt()
    return 1.0 - torch.where(missed, root, 0.0)


def accuracy(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Share of the samples that are right."""
    return (values * prior).sum(dim=-1)


def balanced_error(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """1 - mean recall."""
    return 1.0 - values.mean(dim=-1)


def recall_gap(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Largest recall minus the smallest."""
    return values.amax(dim=-1) - values.amin(dim=-1)


def cvar_recall(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Mean of the worst ``cvar_fraction`` of the recalls: less noisy than their minimum."""
    return cvar_of_recalls(values, context.definitions.cvar_fraction)


def weighted_recall(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
    """Mean of the recalls with ``recall_weights``, a stratum with the weight of its class; NaN without weights."""
    if context.definitions.recall_weights is None:
        return values.sum(dim=-1) * math.nan
    weights = torch.tensor(context.definitions.recall_weights, dtype=values.dtype, device=values.device)
    weights = context.of_strata(weights)
    return (values * weights).sum(dim=-1) / weights.sum()


def shot_recall(least: float, most: float) -> RecallsMetric:
    """Mean recall of the classes with so many training samples, as a metric."""

    def metric(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
        chosen = context.of_strata((context.train_counts >= least) & (context.train_counts <= most))
        return values[..., chosen.to(values.device)].mean(dim=-1)

    metric.__doc__ = (
        f"Mean recall of the classes with {least:g} to {most:g} training samples; NaN without one."
    )
    return metric


def macro_f1(counts: Tensor, context: MetricContext) -> Tensor:
    """Mean over the classes of 2 C_kk / (row sum + column sum)."""
    hits = counts.diagonal(dim1=-2, dim2=-1)
    return (2.0 * hits / (counts.sum(dim=-1) + counts.sum(dim=-2))).mean(dim=-1)


def min_precision(counts: Tensor, context: MetricContext) -> Tensor:
    """Smallest precision; a class that is never predicted counts 0."""
    return precisions(counts).amin(dim=-1)


def cost(counts: Tensor, context: MetricContext) -> Tensor:
    """Mean cost of a sample, sum_kl C_kl cost[k, l] / sum_kl C_kl, under ``cost_matrix``; NaN without one."""
    if context.definitions.cost_matrix is None:
        return counts.sum(dim=(-2, -1)) * math.nan
    costs = torch.tensor(context.definitions.cost_matrix, dtype=counts.dtype, device=counts.device)
    return (counts * costs).sum(dim=(-2, -1)) / counts.sum(dim=(-2, -1))


def shares(counts: Tensor) -> Tensor:
    """Share of the samples that is predicted as each class, shape (..., K)."""
    return coverage(counts) / counts.sum(dim=(-2, -1)).unsqueeze(-1)


def min_coverage(counts: Tensor, context: MetricContext) -> Tensor:
    """Smallest share of the samples that is predicted as one class."""
    return shares(counts).amin(dim=-1)


def min_head_tail_coverage(counts: Tensor, context: MetricContext) -> Tensor:
    """Smaller of the mean coverages of head and tail."""
    covered, tail = shares(counts), context.tail
    return torch.minimum(covered[..., ~tail].mean(dim=-1), covered[..., tail].mean(dim=-1))
