"""The policy of a round: which one the settings ask for, and how sharp it is by now."""

from __future__ import annotations

import torch
from torch import Tensor

from selmix.config import FinetuneConfig
from selmix.policy import (
    balanced_policy,
    effective_pairs,
    epsilon_policy,
    greedy_policy,
    policy_at_effective_pairs,
    proportional_policy,
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
    """P of a round, shape (S, S); adds its diagnostics to ``scalars``.

    That of ``loss_weight`` is diagonal: without mixing G[i, j] is the same for every j, and a pair is a stratum.

    Args:
        gain: G, shape (S, S); None where the policy does not look at it.
        drawable: pairs that may be drawn, shape (S, S), bool. counts: samples of each stratum, shape (S,).
        round_number: from 1. progress: share of the steps that is done, in [0, 1].
    Raises:
        NoPositiveGain: a policy of the gain has no pair to draw.
    """
    if gain is None:
        policy = balanced_policy(drawable) if config.policy == "balanced" else uniform_policy(drawable)
    else:
        scalars["positive_pairs"] = float(((gain > 0) & drawable).sum())
        if round_number <= config.warmup_rounds:
            policy = _warm(config, drawable, counts)
        else:
            policy = _targeted(config, gain, drawable, progress, scalars)
    scalars["effective_pairs"] = effective_pairs(policy)
    if "positive_pairs" in scalars:
        scalars["effective_pairs_share"] = scalars["effective_pairs"] / max(scalars["positive_pairs"], 1.0)
    return policy


def _warm(config: FinetuneConfig, drawable: Tensor, counts: Tensor) -> Tensor:
    """Before the gain acts: uniform pairs, or equal weights, which leave the strata their shares of the pool."""
    if config.policy == "loss_weight":
        return torch.diag(counts.double() / counts.sum())
    return uniform_policy(drawable)


def _targeted(
    config: FinetuneConfig, gain: Tensor, drawable: Tensor, progress: float, scalars: dict[str, float]
) -> Tensor:
    if config.policy == "greedy":
        return greedy_policy(gain, config.top_k, drawable)
    if config.policy == "proportional":
        return proportional_policy(gain, drawable)
    policy, scalars["temperature"] = _softmax(config, gain, drawable, progress)
    return epsilon_policy(policy, config.epsilon, drawable) if config.policy == "epsilon" else policy


def _softmax(config: FinetuneConfig, gain: Tensor, drawable: Tensor, progress: float) -> tuple[Tensor, float]:
    """P and the temperature that it has."""
    start = config.temperature if config.temperature is not None else config.effective_pairs
    if start is None:
        raise AssertionError("FinetuneConfig sets effective_pairs where no temperature is given")
    final = config.temperature_final if config.temperature_final is not None else start / 10.0
    level = scheduled(config.temperature_schedule, start, final, progress)
    if config.temperature is not None:
        return sampling_policy(gain, level, drawable), level
    return policy_at_effective_pairs(gain, level, drawable)
