"""Estimates on the feedback split: counts and prototypes, their average over rounds, and the multipliers."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from selmix.config import FinetuneConfig
from selmix.confusion import class_confusion, confusion_counts, smooth_confusion
from selmix.data.images import Inputs
from selmix.model import ClassifierView, predict
from selmix.multipliers import WorstCaseState
from selmix.objectives import AnyObjective, ObjectiveContext, known_objective
from selmix.parallel.world import ALONE, World
from selmix.round import NonFinite


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
    """Carries the confusion and the worst-case multipliers from round to round.

    Args:
        objective: the objective that the multipliers belong to.
        context: the objective's context; its ``settings`` are those of the multipliers.
        config: ``confusion_average`` and ``confusion_smoothing`` are read.
    """

    def __init__(self, objective: AnyObjective, context: ObjectiveContext, config: FinetuneConfig) -> None:
        self._objective, self._context, self._config = objective, context, config
        self._counts: Tensor | None = None
        self._worst_case = WorstCaseState(context.settings)

    def update(self, counts: Tensor) -> tuple[Tensor, ObjectiveContext]:
        """Add a round's counts, shape (S, K); returns the averaged, smoothed C and the context with its multipliers."""
        confusion = self._average(counts)
        return confusion, self._with_multipliers(confusion)

    def _average(self, counts: Tensor) -> Tensor:
        """Exponential average of the counts over the rounds, smoothed: shape (S, K), sums to 1."""
        weight = self._config.confusion_average
        fresh = counts.double()
        self._counts = fresh if self._counts is None else weight * self._counts + (1.0 - weight) * fresh
        return smooth_confusion(self._counts, self._config.confusion_smoothing)

    def _with_multipliers(self, confusion: Tensor) -> ObjectiveContext:
        context, known = self._context, known_objective(self._objective)
        # Only a minimum has multipliers that are carried over; those of coverage come from the C that psi is given.
        if known is None or known.worst_of is None:
            return context
        scope = context
        if context.num_groups and not known.of_groups:
            # A constraint makes the strata (class, group) cells; this objective is still one of classes.
            confusion, scope = (
                class_confusion(confusion, context.labels),
                dataclasses.replace(context, labels=None),
            )
        values, groups = known.worst_of(confusion, scope)
        multipliers = self._worst_case.update(values if groups is None else groups @ values)
        # The rows of `groups` hold 1 / |g|: the product divides a group's multiplier among its strata.
        spread = multipliers if groups is None else multipliers @ groups
        return dataclasses.replace(context, multipliers=spread)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint: the averaged counts and the worst-case multipliers."""
        return {"counts": self._counts, "worst_case": self._worst_case.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a :meth:`state_dict`."""
        self._counts = state["counts"]
        self._worst_case.load_state_dict(state["worst_case"])
