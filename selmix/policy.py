"""From the gain to the pair-sampling distribution P.

Pairs that cannot be drawn are masked before anything else; the rest sums to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_BISECTIONS = 100


class NoPositiveGain(ValueError):
    """No drawable pair improves the objective to first order: a state to report, never a silent uniform."""


def sampling_policy(gain: Tensor, temperature: float, drawable: Tensor | None = None) -> Tensor:
    """Softmax of gain / temperature over the pairs whose gain is positive.

    Args:
        gain: G, shape (S, S).
        temperature: > 0, in units of gain; inf is the uniform distribution over the positive gains.
        drawable: mask of the pairs that can be drawn, shape (S, S), bool; None: all.
    Returns:
        P, shape (S, S), float64; entries >= 0 that sum to 1.
    Raises:
        ValueError: ``gain`` is not square or not finite, or ``temperature`` <= 0.
        NoPositiveGain: no drawable pair has positive gain; the caller stops and says so.
    Source: SelMix (arXiv:2403.18301). Departs from the released code, whose mask turns into a silent uniform.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    values, positive = _positive_gains(gain, drawable)
    policy = torch.zeros_like(gain, dtype=torch.float64)
    policy[positive] = _softmax(values, 1.0 / temperature)
    return policy


def policy_at_effective_pairs(
    gain: Tensor, target: float, drawable: Tensor | None = None
) -> tuple[Tensor, float]:
    """The softmax policy with exp(H(P)) / (number of pairs with positive gain) = ``target``.

    The share grows with the temperature, which is found by bisection on its inverse. Below the attainable (m
    pairs tied at the highest gain give at least m / n) P is uniform over those ties; at 1 it is uniform over the
    positive gains.

    Args:
        target: in (0, 1].
    Returns:
        P, shape (S, S), float64, and the temperature, 0.0 or inf at the two ends.
    Raises:
        ValueError: as :func:`sampling_policy`, or ``target`` outside (0, 1].
        NoPositiveGain: as :func:`sampling_policy`.
    """
    if not 0.0 < target <= 1.0:
        raise ValueError(f"effective_pairs must lie in (0, 1], got {target}")
    values, positive = _positive_gains(gain, drawable)
    ties = (values == values.max()).double()
    policy = torch.zeros_like(gain, dtype=torch.float64)
    if target >= 1.0 or float(ties.mean()) == 1.0:
        policy[positive] = 1.0 / values.numel()
        return policy, float("inf")
    if float(ties.mean()) >= target:
        policy[positive] = ties / ties.sum()
        return policy, 0.0
    inverse = _solve_inverse_temperature(values, target)
    policy[positive] = _softmax(values, inverse)
    return policy, 1.0 / inverse


def greedy_policy(gain: Tensor, top_k: int, drawable: Tensor | None = None) -> Tensor:
    """The ``top_k`` pairs of highest positive gain alike; pairs tied with the last of them count too.

    Returns:
        P, shape (S, S), float64; uniform over the positive gains where there are fewer than ``top_k``.
    Raises:
        ValueError: as :func:`sampling_policy`, or ``top_k`` < 1.
        NoPositiveGain: as :func:`sampling_policy`.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be >= 1, got {top_k}")
    values, positive = _positive_gains(gain, drawable)
    last = values.topk(min(top_k, values.numel())).values[-1]
    policy = torch.zeros_like(gain, dtype=torch.float64)
    policy[positive] = (values >= last).double()
    return policy / policy.sum()


def proportional_policy(gain: Tensor, drawable: Tensor | None = None) -> Tensor:
    """Each pair in proportion to its positive gain: no temperature to choose, shape (S, S), float64.

    Raises:
        ValueError, NoPositiveGain: as :func:`sampling_policy`.
    """
    values, positive = _positive_gains(gain, drawable)
    policy = torch.zeros_like(gain, dtype=torch.float64)
    policy[positive] = values / values.sum()
    return policy


def epsilon_policy(policy: Tensor, epsilon: float, drawable: Tensor) -> Tensor:
    """(1 - epsilon) P + epsilon uniform over the drawable pairs: no pair is ever forgotten.

    Args:
        policy: P, shape (S, S). epsilon: in [0, 1].
    Raises:
        ValueError: ``epsilon`` outside [0, 1], or no pair can be drawn.
    """
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"epsilon must lie in [0, 1], got {epsilon}")
    return (1.0 - epsilon) * policy + epsilon * uniform_policy(drawable)


def uniform_policy(drawable: Tensor) -> Tensor:
    """Every drawable pair alike, shape (S, S), float64.

    Raises:
        ValueError: no pair can be drawn.
    """
    return _normalised(drawable.double())


def balanced_policy(drawable: Tensor) -> Tensor:
    """i = j, every drawable stratum alike, shape (S, S), float64.

    Raises:
        ValueError: no stratum can be drawn.
    """
    return _normalised(torch.diag(drawable.diagonal().double()))


@dataclass(frozen=True)
class PolicyInputs:
    """Everything that a policy may be drawn from in a round.

    Attributes:
        gain: G, shape (S, S); None where the policy does not look at it.
        drawable: pairs that can be drawn, shape (S, S), bool.
        softmax: gives the softmax policy at the sharpness of the round.
        top_k, epsilon: the settings of these names.
    """

    gain: Tensor | None
    drawable: Tensor
    softmax: Callable[[], Tensor]
    top_k: int
    epsilon: float

    @property
    def known_gain(self) -> Tensor:
        """G of a policy that looks at it."""
        if self.gain is None:
            raise AssertionError("a targeted policy is given the gain")
        return self.gain


@dataclass(frozen=True)
class Policy:
    """One pair policy: an entry of :data:`POLICIES` is all that a new one needs beside its function.

    Attributes:
        pairs: gives P, shape (S, S).
        reads: settings that act under policies which name them, and under no other.
        targeted: True if it looks at the gain.
        mixes: False if samples are drawn one by one, and P weighs their losses.
    """

    pairs: Callable[[PolicyInputs], Tensor]
    reads: tuple[str, ...] = ()
    targeted: bool = True
    mixes: bool = True


SHARPNESS = ("temperature", "effective_pairs", "temperature_schedule", "temperature_final")
POLICIES: dict[str, Policy] = {
    "softmax": Policy(lambda given: given.softmax(), SHARPNESS),
    "greedy": Policy(lambda given: greedy_policy(given.known_gain, given.top_k, given.drawable), ("top_k",)),
    "proportional": Policy(lambda given: proportional_policy(given.known_gain, given.drawable)),
    "epsilon": Policy(
        lambda given: epsilon_policy(given.softmax(), given.epsilon, given.drawable), (*SHARPNESS, "epsilon")
    ),
    "loss_weight": Policy(lambda given: given.softmax(), SHARPNESS, mixes=False),
    "uniform": Policy(lambda given: uniform_policy(given.drawable), targeted=False),
    "balanced": Policy(lambda given: balanced_policy(given.drawable), targeted=False),
}


def policy_perplexity(policy: Tensor) -> float:
    """exp(H(P)), between 1 and the number of pairs: how many pairs P spreads over."""
    return float(torch.special.entr(policy).sum().exp())


def _normalised(weights: Tensor) -> Tensor:
    total = weights.sum()
    if not float(total) > 0:
        raise ValueError("at least one pair must be drawable, got none: a stratum needs a training sample")
    return weights / total


def _positive_gains(gain: Tensor, drawable: Tensor | None) -> tuple[Tensor, Tensor]:
    """The positive gains, shape (n,), float64, and their mask, shape (S, S)."""
    if gain.ndim != 2 or gain.shape[0] != gain.shape[1] or not bool(torch.isfinite(gain).all()):
        raise ValueError(f"gain must be a finite square matrix, got shape {tuple(gain.shape)}")
    positive = gain > 0
    if drawable is not None:
        positive &= drawable
    if not bool(positive.any()):
        raise NoPositiveGain(
            f"no drawable pair has positive gain; the largest gain is {float(gain.max()):.3g}"
        )
    return gain[positive].double(), positive


def _softmax(values: Tensor, inverse_temperature: float) -> Tensor:
    return torch.softmax((values - values.max()) * inverse_temperature, dim=0)


def _solve_inverse_temperature(values: Tensor, target: float) -> float:
    """Bisection on log(1 / T) in units of the gains' spread; the share falls as 1 / T grows."""

    def share(inverse: float) -> float:
        return policy_perplexity(_softmax(values, inverse)) / values.numel()

    spread = float(values.max() - values.min())
    low, high = 1e-6 / spread, 1.0 / spread
    while share(high) > target:
        low, high = high, high * 10.0
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        if share(middle) > target:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)
