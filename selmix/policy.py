"""Policies: the distribution P over pairs of strata, computed from the gain.

Pairs that cannot be drawn are masked first; P sums to 1 over the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# More halvings than float64 has digits for.
_BISECTIONS = 100


class NoPositiveGain(ValueError):
    """No drawable pair improves the objective to first order: to be reported, never replaced by uniform pairs."""


def sampling_policy(gain: Tensor, temperature: float, drawable: Tensor | None = None) -> Tensor:
    """Softmax of gain / temperature over the pairs whose gain is positive.

    Args:
        gain: G, shape (S, S).
        temperature: > 0, in units of gain; inf gives the uniform distribution over the positive gains.
        drawable: mask of the pairs that can be drawn, shape (S, S), bool; None for all.
    Returns:
        P, shape (S, S), float64; entries >= 0 that sum to 1.
    Raises:
        ValueError: ``gain`` is not square or not finite, or ``temperature`` is not positive.
        NoPositiveGain: no drawable pair has positive gain; the caller stops and reports it.
    Source: SelMix (arXiv:2403.18301). Deviates from the released code, which falls back silently on uniform pairs.
    """
    # Written as `not >`, so that NaN is refused too.
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    values, positive = _positive_gains(gain, drawable)
    policy = torch.zeros_like(gain, dtype=torch.float64)
    policy[positive] = _softmax(values, 1.0 / temperature)
    return policy


def policy_at_effective_pairs(
    gain: Tensor, target: float, drawable: Tensor | None = None
) -> tuple[Tensor, float]:
    """Softmax policy with exp(H(P)) / (number of pairs with positive gain) = ``target``.

    The share grows with the temperature, which is found by bisection on its inverse. For a target below the attainable
    (m of n pairs tied at the highest gain give at least m / n) P is uniform over those ties; at 1 it is uniform over
    the positive gains.

    Args:
        gain: G, shape (S, S).
        target: share of the pairs with positive gain, in (0, 1].
        drawable: mask of the pairs that can be drawn, shape (S, S), bool; None for all.
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
    # Only an infinite temperature reaches 1, and where all gains tie there is no spread to measure a temperature by.
    if target >= 1.0 or float(ties.mean()) == 1.0:
        policy[positive] = 1.0 / values.numel()
        return policy, float("inf")
    # The lowest share that there is: the bisection would look for a target below it without end.
    if float(ties.mean()) >= target:
        policy[positive] = ties / ties.sum()
        return policy, 0.0
    inverse = _solve_inverse_temperature(values, target)
    policy[positive] = _softmax(values, inverse)
    return policy, 1.0 / inverse


def greedy_policy(gain: Tensor, top_k: int, drawable: Tensor | None = None) -> Tensor:
    """Uniform policy over the ``top_k`` pairs of highest positive gain, and over pairs tied with the last of them.

    Args:
        gain: G, shape (S, S).
        top_k: number of pairs, >= 1.
        drawable: mask of the pairs that can be drawn, shape (S, S), bool; None for all.
    Returns:
        P, shape (S, S), float64; uniform over the positive gains if there are fewer than ``top_k``.
    Raises:
        ValueError: as :func:`sampling_policy`, or ``top_k`` < 1.
        NoPositiveGain: as :func:`sampling_policy`.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be >= 1, got {top_k}")
    values, positive = _positive_gains(gain, drawable)
    # By value, not by index: which of several equal gains `topk` returns is arbitrary.
    last = values.topk(min(top_k, values.numel())).values[-1]
    policy = torch.zeros_like(gain, dtype=torch.float64)
    policy[positive] = (values >= last).double()
    return policy / policy.sum()


def proportional_policy(gain: Tensor, drawable: Tensor | None = None) -> Tensor:
    """Policy in proportion to the positive gains, shape (S, S), float64; it has no temperature to choose.

    Raises:
        ValueError, NoPositiveGain: as :func:`sampling_policy`.
    """
    values, positive = _positive_gains(gain, drawable)
    policy = torch.zeros_like(gain, dtype=torch.float64)
    policy[positive] = values / values.sum()
    return policy


def epsilon_policy(policy: Tensor, epsilon: float, drawable: Tensor) -> Tensor:
    """Mix a policy with uniform pairs: (1 - epsilon) P + epsilon uniform, so that every pair keeps some weight.

    Args:
        policy: P, shape (S, S).
        epsilon: share of the uniform pairs, in [0, 1].
        drawable: mask of the pairs that can be drawn, shape (S, S), bool.
    Raises:
        ValueError: ``epsilon`` outside [0, 1], or no pair can be drawn.
    """
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"epsilon must lie in [0, 1], got {epsilon}")
    return (1.0 - epsilon) * policy + epsilon * uniform_policy(drawable)


def uniform_policy(drawable: Tensor) -> Tensor:
    """Uniform policy over the drawable pairs, shape (S, S), float64.

    Raises:
        ValueError: no pair can be drawn.
    """
    return _normalised(drawable.double())


def balanced_policy(drawable: Tensor) -> Tensor:
    """Uniform policy over the pairs with i = j, every drawable stratum paired with itself, shape (S, S), float64.

    Raises:
        ValueError: no stratum can be drawn.
    """
    return _normalised(torch.diag(drawable.diagonal().double()))


@dataclass(frozen=True)
class PolicyInputs:
    """Inputs of a policy in one round.

    Attributes:
        gain: G, shape (S, S); None if the policy does not read it.
        drawable: mask of the pairs that can be drawn, shape (S, S), bool.
        softmax: returns the softmax policy at the sharpness of the round.
        top_k: number of pairs of the greedy policy.
        epsilon: uniform share of the epsilon policy.
    """

    gain: Tensor | None
    drawable: Tensor
    softmax: Callable[[], Tensor]
    top_k: int
    epsilon: float

    @property
    def known_gain(self) -> Tensor:
        """G, for a policy that reads it."""
        if self.gain is None:
            raise AssertionError("a targeted policy needs the gain, got None")
        return self.gain


@dataclass(frozen=True)
class Policy:
    """One pair policy: a new policy needs its function and an entry of :data:`POLICIES`.

    Attributes:
        pairs: returns P, shape (S, S).
        reads: settings that have an effect only under the policies that list them.
        targeted: True if the policy reads the gain.
        mixes: False if samples are drawn one by one and P weighs their losses.
    """

    pairs: Callable[[PolicyInputs], Tensor]
    reads: tuple[str, ...] = ()
    targeted: bool = True
    mixes: bool = True


SHARPNESS = ("temperature", "effective_pairs", "temperature_schedule", "temperature_final")
"""Settings of the policies that are a softmax of the gain."""

POLICIES: dict[str, Policy] = {
    "softmax": Policy(lambda inputs: inputs.softmax(), SHARPNESS),
    "greedy": Policy(
        lambda inputs: greedy_policy(inputs.known_gain, inputs.top_k, inputs.drawable), ("top_k",)
    ),
    "proportional": Policy(lambda inputs: proportional_policy(inputs.known_gain, inputs.drawable)),
    "epsilon": Policy(
        lambda inputs: epsilon_policy(inputs.softmax(), inputs.epsilon, inputs.drawable),
        (*SHARPNESS, "epsilon"),
    ),
    "loss_weight": Policy(lambda inputs: inputs.softmax(), SHARPNESS, mixes=False),
    "uniform": Policy(lambda inputs: uniform_policy(inputs.drawable), targeted=False),
    "balanced": Policy(lambda inputs: balanced_policy(inputs.drawable), targeted=False),
}
"""Name of the setting ``policy`` -> policy."""


def policy_perplexity(policy: Tensor) -> float:
    """Perplexity exp(H(P)): the number of pairs that P spreads over, between 1 and that of all pairs."""
    return float(torch.special.entr(policy).sum().exp())


def _normalised(weights: Tensor) -> Tensor:
    total = weights.sum()
    if not float(total) > 0:
        raise ValueError("at least one pair must be drawable, got none: a stratum needs a training sample")
    return weights / total


def _positive_gains(gain: Tensor, drawable: Tensor | None) -> tuple[Tensor, Tensor]:
    """Positive gains of the drawable pairs, shape (n,), float64, and their mask, shape (S, S)."""
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
    # The largest is subtracted before the scaling: at a low temperature the products would overflow.
    return torch.softmax((values - values.max()) * inverse_temperature, dim=0)


def _solve_inverse_temperature(values: Tensor, target: float) -> float:
    """Solve for 1 / T by bisection on its logarithm, in units of the gains' spread; the share falls as 1 / T grows."""

    def share(inverse: float) -> float:
        return policy_perplexity(_softmax(values, inverse)) / values.numel()

    spread = float(values.max() - values.min())
    low, high = 1e-6 / spread, 1.0 / spread
    # This ends: as 1 / T grows the share falls to that of the ties, which is below the target.
    while share(high) > target:
        low, high = high, high * 10.0
    for _ in range(_BISECTIONS):
        # The geometric mean, because 1 / T ranges over orders of magnitude.
        middle = math.sqrt(low * high)
        if share(middle) > target:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)
