"""Definitions of the metrics that have parameters: the fraction of CVaR, recall weights, a cost matrix, one class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from selmix.metric_keys import class_rate_key

DEFAULT_CVAR_FRACTION = 0.3
DEFAULT_HEAD_FRACTION = 0.9
DEFAULT_BETA = 2.0

RATES_OF_A_CLASS = ("recall", "precision")


@dataclass(frozen=True)
class ClassRate:
    """Recall or precision of one class, a metric of its own.

    Attributes:
        rate: of RATES_OF_A_CLASS.
        label: the class, in [0, K).
        class_name: its name; empty for none.
    Raises:
        ValueError: another rate.
    """

    rate: str
    label: int
    class_name: str = ""

    def __post_init__(self) -> None:
        if self.rate not in RATES_OF_A_CLASS:
            raise ValueError(f"rate must be one of {', '.join(RATES_OF_A_CLASS)}, got {self.rate!r}")

    @property
    def key(self) -> str:
        """Key of the metric, ``recall/NAME``; ``recall/class 3`` where the name could be no part of a key."""
        return class_rate_key(self.rate, self.label, self.class_name)


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
        class_rates: recalls and precisions of single classes that are metrics too, such as those with a bound.
        beta: weight of the recall beside the precision in ``f_beta``, > 0; 1 makes it macro F1.
        own_metrics: functions of the user's own, ``module:function``, that are metrics too.
    """

    cvar_fraction: float = DEFAULT_CVAR_FRACTION
    recall_weights: tuple[float, ...] | None = None
    cost_matrix: tuple[tuple[float, ...], ...] | None = None
    head_fraction: float = DEFAULT_HEAD_FRACTION
    class_rates: tuple[ClassRate, ...] = ()
    beta: float = DEFAULT_BETA
    own_metrics: tuple[str, ...] = ()

    def problems(self, num_classes: int) -> list[str]:
        """List what does not fit K classes, one ``name: must be RULE, got VALUE`` per problem."""
        problems = []
        if not 0 < self.cvar_fraction <= 1:
            problems.append(f"cvar_fraction: must be a number in (0, 1], got {self.cvar_fraction}")
        if not 0 < self.head_fraction < 1:
            problems.append(f"head_fraction: must be a number in (0, 1), got {self.head_fraction}")
        if not (math.isfinite(self.beta) and self.beta > 0):
            problems.append(f"beta: must be a number > 0, got {self.beta}")
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
        problems += [
            f"class_rates: must be of classes in [0, {num_classes}), got {each.label}"
            for each in self.class_rates
            if not 0 <= each.label < num_classes
        ]
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


def cvar_weights(values: Tensor, fraction: float) -> Tensor:
    """Weights with which :func:`cvar_of_recalls` averages the recalls; equal recalls share theirs equally.

    Args:
        values: recalls, shape (..., S).
        fraction: share of the recalls to average, in (0, 1].
    Returns:
        Shape (..., S), >= 0, each sums to 1, detached.
    """
    amount = max(1.0, fraction * values.shape[-1])
    held = values.detach().contiguous()
    ordered = held.sort(dim=-1).values
    # Places of the first recall of a level and of the one after its last. In the dtype of the values: a float minus a
    # tensor of integers is float32.
    below = torch.searchsorted(ordered, held).to(values.dtype)
    ties = torch.searchsorted(ordered, held, right=True).to(values.dtype) - below
    # What is left of the amount after all lower levels, divided among the recalls of a level.
    left = (amount - below).clamp_min(0.0)
    shares: Tensor = torch.minimum(left, ties) / ties
    return shares / amount
