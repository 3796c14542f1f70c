"""Multipliers of the worst-case and of the constrained objectives, and their state over the rounds.

Multipliers are computed from a confusion matrix and then held constant: no gradient flows through them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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
    exponent = -settings.lr * values.detach()
    # A multiplier that has underflowed to 0 has the logarithm -inf and could never grow again.
    if previous is not None and settings.decay > 0:
        exponent = exponent + settings.decay * previous.clamp_min(torch.finfo(previous.dtype).tiny).log()
    return torch.softmax(exponent, dim=0)


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
    slack = (values.detach() - floor) / settings.temperature
    # Clamped first, so that the exponential cannot overflow; expm1 keeps its digits where 1 - exp would cancel.
    return (settings.maximum * -torch.expm1(slack.clamp(max=0.0))).clamp_min(0.0)


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
