"""Definitions of the metrics that have parameters: the fraction of CVaR, recall weights, a cost matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DEFAULT_CVAR_FRACTION = 0.3
DEFAULT_HEAD_FRACTION = 0.9


@dataclass(frozen=True)
class Definitions:
    """Numbers that define a metric, the same for every trial of a sweep.

    Attributes:
        cvar_fraction: share of the classes, the worst ones, whose mean recall is ``cvar_recall``, in (0, 1].
        recall_weights: weights of ``weighted_recall``, one per class, >= 0, not all 0; None to leave the metric out.
        cost_matrix: costs of ``cost``, K x K: entry (j, k) is the cost of predicting class k for a sample of class j;
            None to leave the metric out.
        head_fraction: share of the classes, those with the most training samples, that are the head; the tail is the
            rest, at least one class.
    """

    cvar_fraction: float = DEFAULT_CVAR_FRACTION
    recall_weights: tuple[float, ...] | None = None
    cost_matrix: tuple[tuple[float, ...], ...] | None = None
    head_fraction: float = DEFAULT_HEAD_FRACTION

    def problems(self, num_classes: int) -> list[str]:
        """List what does not fit K classes, one ``name: must be RULE, got VALUE`` per problem."""
        problems = []
        if not 0 < self.cvar_fraction <= 1:
            problems.append(f"cvar_fraction: must be a number in (0, 1], got {self.cvar_fraction}")
        if not 0 < self.head_fraction < 1:
            problems.append(f"head_fraction: must be a number in (0, 1), got {self.head_fraction}")
        weights = self.recall_weights
        if weights is not None:
            good = all(math.isfinite(w) and w >= 0 for w in weights) and sum(weights) > 0
            if len(weights) != num_classes:
                problems.append(f"recall_weights: must be one per class, {num_classes}, got {len(weights)}")
            elif not good:
                problems.append(f"recall_weights: must be finite, >= 0 and not all 0, got {list(weights)}")
        costs = self.cost_matrix
        if costs is not None:
            # A set of lengths, so that rows of different lengths are reported too.
            lengths = {len(row) for row in costs}
            if len(costs) != num_classes or lengths != {num_classes}:
                shape = f"{len(costs)} rows of {sorted(lengths)}"
                problems.append(
                    f"cost_matrix: must be {num_classes} rows of {num_classes} numbers, got {shape}"
                )
            elif not all(math.isfinite(cost) for row in costs for cost in row):
                problems.append("cost_matrix: must be finite numbers")
        return problems


def cvar_of_recalls(values: Tensor, fraction: float) -> Tensor:
    """Mean of the worst ``fraction`` of the recalls: the minimum at 1 / K and below, the mean at 1.

    With m = max(1, fraction K) the worst floor(m) have weight 1 and the next one has weight m - floor(m).

    Args:
        values: recalls, shape (..., S).
        fraction: share of the recalls to average, in (0, 1].
    Returns:
        Shape (...).
    Source: conditional value at risk, Rockafellar and Uryasev, 2000.
    """
    size = values.shape[-1]
    amount = max(1.0, fraction * size)
    weights = (amount - torch.arange(size, dtype=values.dtype, device=values.device)).clamp(0.0, 1.0)
    return (values.sort(dim=-1).values * weights).sum(dim=-1) / amount
