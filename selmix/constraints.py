"""Bounds on metrics inside the method: penalties with multipliers that are held constant in a round."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from selmix.confusion import class_confusion
from selmix.metrics import METRICS
from selmix.multipliers import constraint_multipliers
from selmix.objectives import ObjectiveContext
from selmix.statistics.selection import Constraint


def with_constraints(
    objective: Callable[[Tensor], Tensor], constraints: Sequence[Constraint], context: ObjectiveContext
) -> Callable[[Tensor], Tensor]:
    """Add to the objective a penalty for every bound that is missed.

    (psi + sum_g m_g s_g) / (1 + max_g m_g / |g|) over the slacks of all constraints (:func:`slacks`: negative where a
    bound is missed), m_g = max(0, lambda_max (1 - exp(s_g / tau))) held constant: zero where the bound holds. The
    multipliers are computed afresh in every round from the averaged, smoothed C.

    Args:
        objective: psi, a function of C alone.
        constraints: the bounds that act inside the method.
        context: training counts, definitions, and the multipliers' settings.
    Returns:
        A function of C alone; ``objective`` itself if there are no constraints.
    Source: SelMix (arXiv:2403.18301), its coverage constraints; here for any metric of C.
    """
    if not constraints:
        return objective

    def constrained(confusion: Tensor) -> Tensor:
        total, largest = objective(confusion), confusion.new_zeros(())
        for constraint in constraints:
            slack, sizes = slacks(constraint, confusion, context)
            # Of the slack, so the floor is 0; detached, so the gradient is that of the slacks alone.
            multipliers = constraint_multipliers(slack, 0.0, context.settings)
            total = total + (multipliers * slack).sum()
            # Per class, as in the published coverage objectives: the divisor takes m_g / |g|.
            largest = torch.maximum(largest, (multipliers / sizes).max())
        # The divisor bounds the gradient however large the multipliers are.
        return total / (1.0 + largest)

    return constrained


def slacks(constraint: Constraint, confusion: Tensor, context: ObjectiveContext) -> tuple[Tensor, Tensor]:
    """Slacks of a bound: the distances by which it holds, negative where it is missed.

    A floor on a minimum (of coverages, recalls or precisions) is a floor on each value that the minimum is taken of,
    with a multiplier for each (:attr:`selmix.metrics.Metric.least_of`). Any other bound has a single slack.

    Args:
        constraint: the bound.
        confusion: C, shape (S, K).
        context: further inputs of the metric.
    Returns:
        Slacks, shape (G,), and the number of classes behind each, shape (G,).
    Raises:
        ValueError: the metric cannot be computed from a confusion matrix.
    """
    metric = METRICS[constraint.metric]
    if metric.of_predictions is not None:
        raise ValueError(f"{metric.key} is no metric of a confusion matrix: it can bind in the search only")
    known = context.for_metrics(confusion.shape[1])
    if constraint.at_least is not None and metric.least_of is not None:
        values, sizes = metric.least_of(confusion, known)
        return values - constraint.at_least, sizes
    matrix = confusion
    if metric.of_cells is None:
        # A metric of classes is computed over classes, even if the strata are (class, group) cells.
        matrix, known = class_confusion(confusion, context.labels), dataclasses.replace(known, labels=None)
    value = metric.of_matrix(matrix, known).reshape(1)
    slack = value - constraint.bound if constraint.at_least is not None else constraint.bound - value
    return slack, torch.ones_like(slack)
