"""What a round of fine-tuning leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


class NonFinite(ArithmeticError):
    """A loss, logit or gradient stopped being finite; the message says which."""


@dataclass(frozen=True)
class Round:
    """What one round estimated and did; matrices are on the CPU.

    Attributes:
        number: from 1. steps: SGD steps done at its end.
        confusion: C of the feedback split at its start, shape (S, K), unsmoothed.
        gain: G, shape (S, S); None where the policy does not read it.
        policy: P, shape (S, S); None where no pair had positive gain.
        multipliers: m, shape (S,), of worst-case objectives.
        scalars: loss (mean over the steps), temperature, policy_perplexity (exp(H(P))), positive_pairs, lr,
            objective (psi of the averaged, smoothed C).
        stop_reason: why the run ends here (``steps``, ``no_positive_gain``, ``gain_plateau``), None while it goes on.
    """

    number: int
    steps: int
    confusion: Tensor
    gain: Tensor | None
    policy: Tensor | None
    multipliers: Tensor | None
    scalars: dict[str, float]
    stop_reason: str | None
