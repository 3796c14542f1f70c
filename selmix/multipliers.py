"""Multipliers of the worst-case objectives, of the coverage objectives and of bounds, and their state over the rounds.

Multipliers are computed from a confusion matrix and then held constant: no gradient flows through them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Of bounds, in units of the bounded metric: sharpness of the weights of its values, step of log Lambda per round, slack
# at which the step is whole, and limits of Lambda. They are fixed: a bound needs no setting beside its value.
_BOUND_SHARPNESS = 20.0
_BOUND_STEP = 0.5
_BOUND_SCALE = 0.05
_BOUND_LEAST, _BOUND_MOST = 0.01, 20.0
BOUND_START = 1.0
"""Lambda of every bound before the first round."""


@dataclass(frozen=True)
class MultiplierSettings:
    """Settings of the multipliers; the defaults are the published ones.

    Attributes:
        lr: eta, step of the exponentiated gradient on the simplex (published name: val_lr).
        decay: beta, power of the previous multipliers; 0 drops them.
        coverage_level: alpha; each class must be predicted for at least alpha / K of the samples.
        temperature: tau, in units of coverage; the scale on which a missed floor raises its multiplier.
        maximum: lambda_max, upper bound of the constraint multipliers.
    """

    lr: float = 50.0
    decay: float = 0.0
    coverage_level: float = 0.95
    temperature: float = 0.01
    maximum: float = 100.0


def worst_case_multipliers(
    values: Tensor, settings: MultiplierSettings, previous: Tensor | None = None
) -> Tensor:
    """Exponentiated-gradient weights on the simplex, m_g ~ m_g^beta exp(-eta value_g).

    Args:
        values: recalls of the strata or groups, shape (G,).
        settings: ``lr`` and ``decay`` are read.
        previous: multipliers of the last round, shape (G,); None for uniform ones.
    Returns:
        Shape (G,), >= 0, sums to 1, detached.
    Source: SelMix (arXiv:2403.18301), the min-recall objective.
    """
    return exponentiated_gradient(values, settings.lr, settings.decay, previous)


def exponentiated_gradient(
    values: Tensor, lr: float | Tensor, decay: float | Tensor, previous: Tensor | None = None
) -> Tensor:
    """Formula of :func:`worst_case_multipliers`, for any number of vectors at once, each with its own settings.

    Args:
        values: shape (..., G).
        lr: eta, a number or shape (..., 1).
        decay: beta, a number or shape (..., 1).
        previous: multipliers of the last round, shape (..., G); None for uniform ones.
    Returns:
        Shape (..., G), each >= 0 with sum 1, detached.
    """
    exponent = -lr * values.detach()
    # A multiplier that has underflowed to 0 has the logarithm -inf and could never grow again.
    if previous is not None:
        exponent = exponent + decay * previous.clamp_min(torch.finfo(previous.dtype).tiny).log()
    return torch.softmax(exponent, dim=-1)


def constraint_multipliers(values: Tensor, floor: Tensor | float, settings: MultiplierSettings) -> Tensor:
    """Multipliers m_g = max(0, lambda_max (1 - exp((value_g - floor) / tau))): zero where the floor holds.

    Args:
        values: coverages of the groups, shape (G,).
        floor: value that each must reach, scalar or shape (G,).
        settings: ``temperature`` and ``maximum`` are read.
    Returns:
        Shape (G,), in [0, lambda_max), detached.
    Source: SelMix (arXiv:2403.18301), the coverage-constrained objectives.
    """
    return missed_floors(values, floor, settings.temperature, settings.maximum)


def missed_floors(
    values: Tensor, floor: Tensor | float, temperature: float | Tensor, maximum: float | Tensor
) -> Tensor:
    """Formula of :func:`constraint_multipliers`, for any number of vectors at once, each with its own settings.

    Args:
        values: shape (..., G).
        floor: value that each must reach.
        temperature: tau, a number or shape (..., 1).
        maximum: lambda_max, a number or shape (..., 1).
    Returns:
        Shape (..., G), detached.
    """
    slack = (values.detach() - floor) / temperature
    # Clamped first, so that the exponential cannot overflow; expm1 keeps its digits where 1 - exp would cancel.
    return (maximum * -torch.expm1(slack.clamp(max=0.0))).clamp_min(0.0)


class WorstCaseState:
    """Worst-case multipliers, carried from round to round (they have a memory if ``decay`` > 0)."""

    def __init__(self, settings: MultiplierSettings) -> None:
        self.settings = settings
        self.multipliers: Tensor | None = None

    def update(self, values: Tensor) -> Tensor:
        """Compute the multipliers of this round from the groups' recalls, shape (G,)."""
        self.multipliers = worst_case_multipliers(values, self.settings, self.multipliers)
        return self.multipliers

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"multipliers": self.multipliers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a :meth:`state_dict`."""
        self.multipliers = state["multipliers"]


def bound_weights(slacks: Tensor) -> Tensor:
    """Weights of the values that a bound is on, softmax(-20 slack): the least one weighs most.

    The bound itself cancels, so a floor that is out of reach still pulls at the least value and turns the objective
    into its minimum.

    Args:
        slacks: in units of the metric, negative where the bound is missed, shape (..., G).
    Returns:
        Shape (..., G), >= 0, each sums to 1, detached.
    """
    return torch.softmax(-_BOUND_SHARPNESS * slacks.detach(), dim=-1)


class BoundState:
    """Multipliers of bounds, raised over the rounds while a bound is missed and lowered while it holds.

    With weights w of :func:`bound_weights` and the slack S = w . slacks of a round, Lambda becomes
    Lambda exp(-0.5 clip(S / 0.05, -1, 1)), clipped to [0.01, 20], from 1 at the start: dual ascent on log Lambda with a
    limited step.

    Args:
        number: of bounds.
    """

    def __init__(self, number: int) -> None:
        self.values = [BOUND_START] * number

    def update(self, slacks: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Compute the multipliers of this round.

        Args:
            slacks: of each bound, in units of its metric, shape (G,) each.
        Returns:
            Lambda w of each bound, shape (G,), which sums to its Lambda.
        """
        weights = [bound_weights(each) for each in slacks]
        means = [float(w @ each.detach()) for w, each in zip(weights, slacks, strict=True)]
        self.values = [moved_bound(value, mean) for value, mean in zip(self.values, means, strict=True)]
        return tuple(value * w for value, w in zip(self.values, weights, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"values": list(self.values)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a :meth:`state_dict`."""
        self.values = list(state["values"])


def moved_bound(value: float, slack: float) -> float:
    """Lambda of a bound after a round.

    Args:
        value: Lambda before it.
        slack: S of the round, in units of the metric.
    """
    step = min(max(slack / _BOUND_SCALE, -1.0), 1.0)
    return min(max(value * math.exp(-_BOUND_STEP * step), _BOUND_LEAST), _BOUND_MOST)
