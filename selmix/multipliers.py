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
        decay: beta, power of the previous multipliers; 0 forgets them.
        coverage_level: alpha; a class must be predicted at least alpha / K of the time.
        temperature: tau, in units of coverage.
        maximum: lambda_max.
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
        previous: the multipliers of the last round, shape (G,); None: uniform.
    Returns:
        Shape (G,), >= 0, sums to 1, detached.
    Source: SelMix (arXiv:2403.18301), the min-recall objective.
    """
    exponent = -settings.lr * values.detach()
    if previous is not None and settings.decay > 0:
        exponent = exponent + settings.decay * previous.clamp_min(torch.finfo(previous.dtype).tiny).log()
    return torch.softmax(exponent, dim=0)


def constraint_multipliers(values: Tensor, floor: Tensor | float, settings: MultiplierSettings) -> Tensor:
    """m_g = max(0, lambda_max (1 - exp((value_g - floor) / tau))): zero where the floor holds.

    Args:
        values: coverages of the groups, shape (G,). floor: what each must reach, scalar or shape (G,).
    Returns:
        Shape (G,), in [0, lambda_max), detached.
    Source: SelMix (arXiv:2403.18301), the coverage-constrained objectives.
    """
    slack = (values.detach() - floor) / settings.temperature
    return (settings.maximum * -torch.expm1(slack.clamp(max=0.0))).clamp_min(0.0)


class WorstCaseState:
    """Carries the worst-case multipliers from round to round (they matter where ``decay`` > 0)."""

    def __init__(self, settings: MultiplierSettings) -> None:
        self.settings = settings
        self.multipliers: Tensor | None = None

    def update(self, values: Tensor) -> Tensor:
        """Multipliers of this round from the groups' recalls, shape (G,)."""
        self.multipliers = worst_case_multipliers(values, self.settings, self.multipliers)
        return self.multipliers

    def state_dict(self) -> dict[str, Any]:
        return {"multipliers": self.multipliers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.multipliers = state["multipliers"]
