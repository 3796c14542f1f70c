"""Bounds on metrics inside the method: penalties with multipliers that are held constant in a round."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from torch import Tensor

from selmix.confusion import class_confusion
from selmix.definitions import Definitions
from selmix.metrics import metric_named
from selmix.multipliers import BoundState
from selmix.objectives import ObjectiveContext
from selmix.statistics.selection import Constraint
from selmix.statistics.verdict import metric_range


def with_constraints(
    objective: Callable[[Tensor], Tensor], constraints: Sequence[Constraint], context: ObjectiveContext
) -> Callable[[Tensor], Tensor]:
    """Add to the objective the weighted slacks of its bounds.

    (psi + sum_b Lambda_b sum_g w_bg s_bg) / (1 + sum_b Lambda_b) over the values g of each bound b, with slacks s in
    units of the metric (:func:`scaled_slacks`), weights w on the simplex and multipliers Lambda
    (:class:`selmix.multipliers.BoundState`), both held constant. A bound that holds counts little, one that is missed
    more from round to round, and one that is out of reach until its least value is all that counts. The divisor bounds
    the gradient however large the multipliers are.

    Args:
        objective: psi, a function of C alone.
        constraints: the bounds that act inside the method.
        context: training counts, definitions, and the bounds' multipliers: a run carries them over its rounds and
            passes them; None for those of a first round at the C that is given.
    Returns:
        A function of C alone; ``objective`` itself if there are no constraints.
    """
    if not constraints:
        return objective

    def constrained(confusion: Tensor) -> Tensor:
        slacks = [scaled_slacks(constraint, confusion, context) for constraint in constraints]
        multipliers = context.bound_multipliers
        if multipliers is None:
            multipliers = BoundState(len(slacks)).update(slacks)
        total, divisor = objective(confusion), confusion.new_ones(())
        for held, slack in zip(multipliers, slacks, strict=True):
            total = total + (held.to(slack) * slack).sum()
            divisor = divisor + held.to(slack).sum()
        return total / divisor

    return constrained


def scaled_slacks(constraint: Constraint, confusion: Tensor, context: ObjectiveContext) -> Tensor:
    """Slacks of a bound, :func:`slacks`, in units of its metric: 1, 1 / K of coverages, the range of the costs."""
    return slacks(constraint, confusion, context) / unit(constraint, confusion.shape[1], context.definitions)


def unit(constraint: Constraint, num_classes: int, definitions: Definitions) -> float:
    """Scale on which a bound's metric moves: 1 / K of coverages, the range of the costs of ``cost``, else 1."""
    # Equal costs everywhere: no model changes them, and any scale will do.
    return metric_range(constraint.metric, num_classes, definitions) or 1.0


def slacks(constraint: Constraint, confusion: Tensor, context: ObjectiveContext) -> Tensor:
    """Slacks of a bound: the distances by which it holds, negative where it is missed.

    A floor on a minimum (of coverages, recalls or precisions) is a floor on each value that the minimum is taken of
    (:attr:`selmix.metrics.Metric.least_of`). Any other bound has a single slack.

    Args:
        constraint: the bound.
        confusion: C, shape (S, K).
        context: further inputs of the metric.
    Returns:
        Slacks, shape (G,).
    Raises:
        ValueError: the metric cannot be computed from a confusion matrix.
    """
    metric = metric_named(constraint.key, context.definitions)
    if metric.of_predictions is not None:
        raise ValueError(f"{metric.key} is no metric of a confusion matrix: it can bind in the search only")
    known = context.for_metrics(confusion.shape[1])
    if constraint.at_least is not None and metric.least_of is not None:
        return metric.least_of(confusion, known) - constraint.at_least
    matrix = confusion
    if metric.of_cells is None:
        # A metric of classes is computed over classes, even if the strata are (class, group) cells.
        matrix, known = class_confusion(confusion, context.labels), dataclasses.replace(known, labels=None)
    value = metric.of_matrix(matrix, known).reshape(1)
    return value - constraint.bound if constraint.at_least is not None else constraint.bound - value
