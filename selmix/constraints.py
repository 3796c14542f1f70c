"""Bounds on metrics inside the method: penalties with multipliers that are held constant in a round."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from selmix.confusion import class_confusion, coverage, precisions, recalls
from selmix.groups import GROUP_METRICS
from selmix.metrics import METRICS, MetricContext
from selmix.multipliers import constraint_multipliers
from selmix.objectives import ObjectiveContext, head_tail_groups
from selmix.statistics.selection import Constraint

UNCOUNTED = ("calibration_error",)  # metrics that a confusion matrix does not give


def with_constraints(
    objective: Callable[[Tensor], Tensor], constraints: Sequence[Constraint], context: ObjectiveContext
) -> Callable[[Tensor], Tensor]:
    """The objective with a penalty for every bound that is missed.

    (psi + sum_g m_g s_g) / (1 + max_g m_g / |g|) over the slacks of all constraints (:func:`slacks`: negative where a
    bound is missed), m_g = max(0, lambda_max (1 - exp(s_g / tau))) held constant: zero where the bound holds. The
    multipliers are computed afresh in every round from the averaged, smoothed C.

    Args:
        objective: of C alone. constraints: those that act inside the method.
        context: training counts, definitions, and the multipliers' settings.
    Source: SelMix (arXiv:2403.18301), its coverage constraints; here for any metric of C.
    """
    if not constraints:
        return objective

    def constrained(confusion: Tensor) -> Tensor:
        total, largest = objective(confusion), confusion.new_zeros(())
        for constraint in constraints:
            slack, sizes = slacks(constraint, confusion, context)
            multipliers = constraint_multipliers(slack, 0.0, context.settings)
            total = total + (multipliers * slack).sum()
            largest = torch.maximum(largest, (multipliers / sizes).max())
        return total / (1.0 + largest)

    return constrained


def slacks(constraint: Constraint, confusion: Tensor, context: ObjectiveContext) -> tuple[Tensor, Tensor]:
    """By how much a bound holds, negative where it is missed.

    A floor on a minimum (of coverages, recalls or precisions) is a floor for each class, and one on the smaller of
    head and tail a floor for both: each has a multiplier of its own. Any other bound is a single slack.

    Args:
        confusion: C, shape (S, K).
    Returns:
        Slacks, shape (G,), and the number of classes behind each, shape (G,).
    Raises:
        ValueError: the metric is none of a confusion matrix.
    """
    key = constraint.metric
    if key in UNCOUNTED:
        raise ValueError(f"{key} is no metric of a confusion matrix: it can bind in the search only")
    if constraint.at_least is None:
        values = constraint.bound - _metric(key, confusion, context).reshape(1)
        return values, torch.ones_like(values)
    values, sizes = _each(key, confusion, context)
    return values - constraint.bound, sizes


def _each(key: str, confusion: Tensor, context: ObjectiveContext) -> tuple[Tensor, Tensor]:
    """The values that a metric is the minimum of, or itself, and the number of classes behind each."""
    if key == "min_head_tail_coverage":
        groups = head_tail_groups(confusion, context)
        return groups @ coverage(confusion), (groups > 0).sum(dim=1).to(confusion)
    if key == "min_coverage":
        values = coverage(confusion)
    elif key == "min_recall":
        values = recalls(class_confusion(confusion, context.labels))
    elif key == "worst_group_recall":
        values = recalls(confusion, context.labels)
    elif key == "min_precision":
        values = precisions(class_confusion(confusion, context.labels))
    else:
        values = _metric(key, confusion, context).reshape(1)
    return values, torch.ones_like(values)


def _metric(key: str, confusion: Tensor, context: ObjectiveContext) -> Tensor:
    matrix = confusion if key in GROUP_METRICS else class_confusion(confusion, context.labels)
    counts = context.train_counts if context.train_counts is not None else torch.ones(matrix.shape[1])
    return METRICS[key].of(matrix, MetricContext(counts, context.definitions, context.num_groups))
