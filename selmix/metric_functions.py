"""The definitions of the metrics: short functions of recalls or counts, any number of leading dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from selmix.confusion import coverage
from selmix.definitions import Definitions, cvar_of_recalls
from selmix.objectives import tail_classes

MANY_SHOT, FEW_SHOT = 100, 20


@dataclass(frozen=True)
class MetricContext:
    """What a metric may know beside the counts.

    Attributes:
        train_counts: training samples of each class, shape (K,).
        definitions: what the metrics with parameters take.
        num_groups: A, of data with a group attribute; 0: there is none.
    """

    train_counts: Tensor
    definitions: Definitions = field(default_factory=Definitions)
    num_groups: int = 0

    @property
    def tail(self) -> Tensor:
        """Mask of the tail classes, shape (K,)."""
        return tail_classes(len(self.train_counts), self.train_counts, self.definitions.head_fraction)


CountsMetric = Callable[[Tensor, MetricContext], Tensor]
RecallsMetric = Callable[[Tensor, Tensor, MetricContext], Tensor]


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


def shot_recall(least: float, most: float) -> RecallsMetric:
    def metric(values: Tensor, prior: Tensor, context: MetricContext) -> Tensor:
        chosen = (context.train_counts >= least) & (context.train_counts <= most)
        return values[..., chosen.to(values.device)].mean(dim=-1)

    metric.__doc__ = (
        f"Mean recall of the classes with {least:g} to {most:g} training samples; NaN without one."
    )
    return metric
