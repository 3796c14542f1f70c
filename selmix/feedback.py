"""What the feedback split tells: counts and prototypes, their average over rounds, and the multipliers they give."""

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
    """Counts, shape (S, K), int64, and prototypes, shape (S, d), float64, under the current model.

    Args:
        inputs, strata: of the feedback split, n of each. world: the ranks that share the work; all get the sums.
    Raises:
        NonFinite: a logit.
    """
    features, logits = predict(view, world.part_of_inputs(inputs))
    if int(world.sum_((~torch.isfinite(logits)).sum())):
        raise NonFinite("logits")
    strata = world.part(strata)
    counts = confusion_counts(strata, logits.argmax(dim=1), num_strata, logits.shape[1])
    sums = torch.zeros(num_strata, features.shape[1], dtype=torch.float64, device=features.device)
    sums.index_add_(0, strata, features.double())
    counts, sums = world.sum_(counts), world.sum_(sums)
    return counts, sums / counts.sum(dim=1, keepdim=True)


class FeedbackMemory:
    """Carries the confusion and the worst-case multipliers from round to round.

    Args:
        objective: whose multipliers. context: theirs are taken from its settings.
        config: ``confusion_average`` and ``confusion_smoothing`` are read.
    """

    def __init__(self, objective: AnyObjective, context: ObjectiveContext, config: FinetuneConfig) -> None:
        self._objective, self._context, self._config = objective, context, config
        self._counts: Tensor | None = None
        self._worst_case = WorstCaseState(context.settings)

    def update(self, counts: Tensor) -> tuple[Tensor, ObjectiveContext]:
        """The averaged, smoothed C after a round's counts (S, K), and the context with the round's multipliers."""
        confusion = self._average(counts)
        return confusion, self._with_multipliers(confusion)

    def _average(self, counts: Tensor) -> Tensor:
        """The exponential average of the counts over the rounds, smoothed: (S, K), sums to 1."""
        weight = self._config.confusion_average
        fresh = counts.double()
        self._counts = fresh if self._counts is None else weight * self._counts + (1.0 - weight) * fresh
        return smooth_confusion(self._counts, self._config.confusion_smoothing)

    def _with_multipliers(self, confusion: Tensor) -> ObjectiveContext:
        context, known = self._context, known_objective(self._objective)
        if known is None or known.worst_of is None:
            return context
        seen = context
        if context.num_groups and not known.of_groups:
            # Its metric is one of classes, though the strata are cells for the sake of a constraint.
            confusion, seen = (
                class_confusion(confusion, context.labels),
                dataclasses.replace(context, labels=None),
            )
        values, groups = known.worst_of(confusion, seen)
        least = self._worst_case.update(values if groups is None else groups @ values)
        return dataclasses.replace(context, multipliers=least if groups is None else least @ groups)

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self._counts, "worst_case": self._worst_case.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._counts = state["counts"]
        self._worst_case.load_state_dict(state["worst_case"])
