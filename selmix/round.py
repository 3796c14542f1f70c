"""Report of a round of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


class NonFinite(ArithmeticError):
    """A loss or logit is not finite; the message names it."""


@dataclass(frozen=True)
class Round:
    """Estimates and diagnostics of one round; matrices are on the CPU.

    Attributes:
        number: number of the round, from 1.
        steps: SGD steps done at its end.
        confusion: C of the feedback split at its start, shape (S, K), unsmoothed.
        gain: G, shape (S, S); None if the policy does not read it.
        policy: P, shape (S, S); None if no pair could be drawn.
        multipliers: m of a worst-case objective, or the weights of CVaR, shape (S,); None for other objectives.
        scalars: loss (mean over the steps), temperature, policy_perplexity (exp(H(P))), positive_pairs, lr,
            objective (psi of the averaged, smoothed C), multiplier/METRIC of each bound inside the method, and further
            diagnostics by name.
        stop_reason: reason for the run to end here (``steps``, ``no_positive_gain``, ``no_pseudo_labels`` or
            ``gain_plateau``); None while the run continues.
    """

    number: int
    steps: int
    confusion: Tensor
    gain: Tensor | None
    policy: Tensor | None
    multipliers: Tensor | None
    scalars: dict[str, float]
    stop_reason: str | None
