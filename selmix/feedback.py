"""Estimates on the feedback split: counts and prototypes, their average over rounds, and the multipliers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from selmix.config import FinetuneConfig
from selmix.confusion import class_confusion, confusion_counts, joint_confusion, smooth_confusion, smooth_rows
from selmix.constraints import scaled_slacks
from selmix.data.images import Inputs
from selmix.model import ClassifierView, predict
from selmix.multipliers import BoundState, WorstCaseState
from selmix.objectives import AnyObjective, ObjectiveContext, coverage_multipliers, known_objective
from selmix.parallel.world import ALONE, World
from selmix.round import NonFinite
from selmix.statistics.selection import Constraint


def estimate(
    view: ClassifierView, inputs: Inputs, strata: Tensor, num_strata: int, world: World = ALONE
) -> tuple[Tensor, Tensor]:
    """Estimate the confusion counts and the prototypes under the current model.

    Args:
        view: the model.
        inputs: inputs of the feedback split, n of them.
        strata: stratum of each, shape (n,).
        num_strata: S.
        world: the ranks that share the work; all of them get the same sums.
    Returns:
        Counts, shape (S, K), int64, and prototypes z, shape (S, d), float64.
    Raises:
        NonFinite: a logit is not finite.
    """
    features, logits = predict(view, world.part_of_inputs(inputs))
    # Counted over all ranks: a rank that raised on its own would leave the others waiting in the next exchange.
    if int(world.sum_((~torch.isfinite(logits)).sum())):
        raise NonFinite("logits")
    strata = world.part(strata)
    counts = confusion_counts(strata, logits.argmax(dim=1), num_strata, logits.shape[1])
    # In float64, so that the order of the additions, which depends on the number of ranks, hardly changes the sums.
    sums = torch.zeros(num_strata, features.shape[1], dtype=torch.float64, device=features.device)
    sums.index_add_(0, strata, features.double())
    # Sums are exchanged, not means: a stratum may have different numbers of samples on different ranks.
    counts, sums = world.sum_(counts), world.sum_(sums)
    return counts, sums / counts.sum(dim=1, keepdim=True)


class FeedbackMemory:
    """Carries the confusion, and the multipliers of the objective and of its bounds, from round to round.

    The gradient is taken at a smoothed C. What decides which classes count (multipliers, slacks, CVaR's worst set)
    comes from the counts as they are: smoothing moves all recalls and coverages towards each other, the more so the
    fewer samples a class has. Under ``confusion_smoothing`` they come from the smoothed C, as in earlier versions.

    Args:
        objective: the objective that the multipliers belong to.
        context: the objective's context; its ``settings`` are those of the multipliers.
        config: ``confusion_average`` and the smoothing are read.
        constraints: bounds that act inside the method.
    """

    def __init__(
        self,
        objective: AnyObjective,
        context: ObjectiveContext,
        config: FinetuneConfig,
        constraints: Sequence[Constraint] = (),
    ) -> None:
        self._objective, self._context, self._config = objective, context, config
        self._constraints = tuple(constraints)
        self._counts: Tensor | None = None
        self._worst_case = WorstCaseState(context.settings)
        self._bounds = BoundState(len(self._constraints))

    def update(self, counts: Tensor) -> tuple[Tensor, ObjectiveContext]:
        """Add a round's counts, shape (S, K); returns the averaged, smoothed C and the context with its multipliers."""
        weight = self._config.confusion_average
        fresh = counts.double()
        self._counts = fresh if self._counts is None else weight * self._counts + (1.0 - weight) * fresh
        smoothed, measured = self._smoothed(self._counts)
        context = dataclasses.replace(
            self._context,
            multipliers=self._multipliers(measured),
            coverage_multipliers=self._coverage_multipliers(measured),
            bound_multipliers=self._bounds.update(
                [scaled_slacks(constraint, measured, self._context) for constraint in self._constraints]
            ),
        )
        return smoothed, context

    @property
    def bounds(self) -> dict[str, float]:
        """Multiplier Lambda of each bound by the key of its metric; of several bounds on one metric the largest."""
        named: dict[str, float] = {}
        for constraint, value in zip(self._constraints, self._bounds.values, strict=True):
            named[constraint.key] = max(value, named.get(constraint.key, 0.0))
        return named

    def _smoothed(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """C for the gradient, and C for the multipliers, both of shape (S, K)."""
        config = self._config
        if config.row_smoothing is not None:
            return smooth_rows(counts, config.row_smoothing, self._context.labels), joint_confusion(counts)
        if config.confusion_smoothing is None:
            raise AssertionError("FinetuneConfig must set row_smoothing or confusion_smoothing, got neither")
        # The earlier way as a whole, so that what was pinned under it is reproduced.
        smoothed = smooth_confusion(counts, config.confusion_smoothing)
        return smoothed, smoothed

    def _multipliers(self, confusion: Tensor) -> Tensor | None:
        """Weights of the recalls (or precisions) of a worst-case objective or of CVaR; None for any other."""
        context, known = self._context, known_objective(self._objective)
        if known is None or (known.worst_of is None and known.weights is None):
            return context.multipliers
        scope = context
        if context.num_groups and not known.of_groups:
            # A constraint makes the strata (class, group) cells; this objective is still one of classes.
            confusion, scope = (
                class_confusion(confusion, context.labels),
                dataclasses.replace(context, labels=None),
            )
        if known.weights is not None:
            return known.weights(confusion, scope)
        if known.worst_of is None:
            raise AssertionError("an objective has worst_of or weights here, got neither")
        values, groups = known.worst_of(confusion, scope)
        multipliers = self._worst_case.update(values if groups is None else groups @ values)
        # The rows of `groups` hold 1 / |g|: the product divides a group's multiplier among its strata.
        return multipliers if groups is None else multipliers @ groups

    def _coverage_multipliers(self, confusion: Tensor) -> Tensor | None:
        """Multipliers of a published coverage objective; None for any other."""
        known = known_objective(self._objective)
        if known is None or known.coverage is None:
            return self._context.coverage_multipliers
        by_group = known.coverage == "min_head_tail_coverage"
        return coverage_multipliers(confusion, self._context, by_group)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint: the averaged counts and the multipliers that have a memory."""
        return {
            "counts": self._counts,
            "worst_case": self._worst_case.state_dict(),
            "bounds": self._bounds.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a :meth:`state_dict`; one without multipliers of bounds leaves them at their start."""
        self._counts = state["counts"]
        self._worst_case.load_state_dict(state["worst_case"])
        if "bounds" in state:
            self._bounds.load_state_dict(state["bounds"])
