"""The policy of a round: which one the settings ask for, and how sharp it is by now."""

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
    """P of a round, shape (S, S); adds its diagnostics to ``scalars``.

    That of ``loss_weight`` is diagonal: without mixing G[i, j] is the same for every j, and a pair is a stratum.

    Args:
        config: the policy and its settings.
        gain: G, shape (S, S); None where the policy does not look at it.
        drawable: pairs that can be drawn, shape (S, S), bool.
        counts: samples of each stratum, shape (S,).
        round_number: from 1.
        progress: share of the steps that is done, in [0, 1].
        scalars: diagnostics of the round by name.
    Raises:
        NoPositiveGain: a policy of the gain has no pair to draw.
    """

    def softmax() -> Tensor:
        policy, scalars["temperature"] = _softmax(config, given.known_gain, drawable, progress)
        return policy

    given = PolicyInputs(gain, drawable, softmax, config.top_k, config.epsilon)
    if gain is not None:
        scalars["positive_pairs"] = float(((gain > 0) & drawable).sum())
    if gain is not None and round_number <= config.warmup_rounds:
        policy = _warm(config, drawable, counts)
    else:
        policy = POLICIES[config.policy].pairs(given)
    scalars["policy_perplexity"] = policy_perplexity(policy)
    if "positive_pairs" in scalars:
        # The share that the setting `effective_pairs` asks for, as it was reached.
        scalars["effective_pairs_share"] = scalars["policy_perplexity"] / max(scalars["positive_pairs"], 1.0)
    return policy


def _warm(config: FinetuneConfig, drawable: Tensor, counts: Tensor) -> Tensor:
    """Before the gain acts: uniform pairs, or equal weights, which leave the strata their shares of the pool."""
    if not POLICIES[config.policy].mixes:
        return torch.diag(counts.double() / counts.sum())
    return uniform_policy(drawable)


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
