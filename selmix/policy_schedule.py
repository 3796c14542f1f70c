"""Policy of a round: the one that the settings name, at the sharpness that its schedule has reached."""

from __future__ import annotations

import torch
from torch import Tensor

from selmix.config import FinetuneConfig
from selmix.policy import (
    POLICIES,
    PolicyInputs,
    policy_at_effective_pairs,
    policy_perplexity,
    sampling_policy,
    uniform_policy,
)
from selmix.schedules import scheduled


def policy_of_round(
    config: FinetuneConfig,
    gain: Tensor | None,
    drawable: Tensor,
    counts: Tensor,
    round_number: int,
    progress: float,
    scalars: dict[str, float],
) -> Tensor:
    """Compute P of a round; adds its diagnostics to ``scalars``.

    The policy ``loss_weight`` is diagonal: without mixing G[i, j] is the same for every j, and a pair is a stratum.

    Args:
        config: the policy and its settings.
        gain: G, shape (S, S); None if the policy does not read it.
        drawable: mask of the pairs that can be drawn, shape (S, S), bool.
        counts: samples of each stratum, shape (S,).
        round_number: number of the round, from 1.
        progress: share of the steps that are done, in [0, 1].
        scalars: diagnostics of the round by name; changed in place.
    Returns:
        P, shape (S, S), float64.
    Raises:
        NoPositiveGain: a policy of the gain has no pair to draw.
    """

    # A function, so that a temperature is solved for and reported only under the policies that use it.
    def softmax() -> Tensor:
        policy, scalars["temperature"] = _softmax(config, inputs.known_gain, drawable, progress)
        return policy

    inputs = PolicyInputs(gain, drawable, softmax, config.top_k, config.epsilon)
    if gain is not None:
        scalars["positive_pairs"] = float(((gain > 0) & drawable).sum())
    # Policies that do not read the gain have nothing to warm up for.
    if gain is not None and round_number <= config.warmup_rounds:
        policy = _warm(config, drawable, counts)
    else:
        policy = POLICIES[config.policy].pairs(inputs)
    scalars["policy_perplexity"] = policy_perplexity(policy)
    if "positive_pairs" in scalars:
        # The share that was reached, of which `effective_pairs` is the target. Warm-up may have no positive pair.
        scalars["effective_pairs_share"] = scalars["policy_perplexity"] / max(scalars["positive_pairs"], 1.0)
    return policy


def _warm(config: FinetuneConfig, drawable: Tensor, counts: Tensor) -> Tensor:
    """Policy of the rounds before the gain acts: uniform pairs, or equal loss weights."""
    # P(i) = the stratum's share of the pool gives every sample the weight 1.
    if not POLICIES[config.policy].mixes:
        return torch.diag(counts.double() / counts.sum())
    return uniform_policy(drawable)


def _softmax(config: FinetuneConfig, gain: Tensor, drawable: Tensor, progress: float) -> tuple[Tensor, float]:
    """Softmax policy at the schedule's level, and its temperature."""
    start = config.temperature if config.temperature is not None else config.effective_pairs
    if start is None:
        raise AssertionError("FinetuneConfig must set temperature or effective_pairs, got neither")
    final = config.temperature_final if config.temperature_final is not None else start / 10.0
    level = scheduled(config.temperature_schedule, start, final, progress)
    if config.temperature is not None:
        return sampling_policy(gain, level, drawable), level
    return policy_at_effective_pairs(gain, level, drawable)
