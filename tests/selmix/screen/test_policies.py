"""Policies of many rows against those of one, and the solver against the definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from selmix.config import FinetuneConfig
from selmix.policy import NoPositiveGain, policy_at_effective_pairs
from selmix.policy_schedule import policy_of_round
from selmix.screen.draws import Pool
from selmix.screen.policies import PolicyRow, policies_of_round

# Stratum 2 has no sample: its pairs cannot be drawn.
POOL = Pool.of(torch.tensor([0, 0, 0, 1, 3, 3]), 4)
SETTINGS: list[dict[str, Any]] = [
    {},
    {"effective_pairs": 1.0},
    {"effective_pairs": 0.01},
    {"effective_pairs": 0.3, "temperature_schedule": "linear"},
    {"temperature": 0.1},
    {"temperature": 1e-4, "temperature_schedule": "step"},
    {"policy": "greedy", "top_k": 1},
    {"policy": "greedy", "top_k": 3},
    {"policy": "greedy", "top_k": 100},
    {"policy": "proportional"},
    {"policy": "epsilon", "epsilon": 0.3},
    {"policy": "epsilon", "temperature": 0.2},
    {"policy": "loss_weight"},
    {"policy": "uniform"},
    {"policy": "balanced"},
    {"warmup_rounds": 2},
    {"warmup_rounds": 2, "policy": "loss_weight"},
]


@pytest.mark.parametrize("kind", ["random", "ties", "few", "tiny", "none"])
def test_policies_are_those_of_one_row(kind: str) -> None:
    g = torch.Generator().manual_seed(0)
    configs = [FinetuneConfig(**settings) for settings in SETTINGS]
    gain = torch.randn(len(configs), 4, 4, generator=g, dtype=torch.float64)
    if kind == "ties":
        gain = gain.sign()
    elif kind == "few":
        gain = gain.abs().neg()
        gain[:, 0, 0], gain[:, 1, 3] = 0.5, 0.25
    elif kind == "tiny":
        gain *= 1e-12
    elif kind == "none":
        gain = gain.abs().neg()
    rows = [PolicyRow(config, POOL, 2, 0.4) for config in configs]
    policies, drawn = policies_of_round(rows, gain)
    for place, config in enumerate(configs):
        drawable = POOL.drawable if config.pair_policy.mixes else torch.diag(POOL.drawable.diagonal())
        read = gain[place] if config.pair_policy.targeted else None
        try:
            expected = policy_of_round(config, read, drawable, POOL.counts, 2, 0.4, {})
        except NoPositiveGain:
            assert not drawn[place]
            continue
        assert drawn[place]
        assert torch.allclose(policies[place], expected, rtol=1e-9, atol=1e-12), config


@pytest.mark.parametrize("strata", [3, 30])
def test_the_share_of_pairs_is_reached(strata: int) -> None:
    g = torch.Generator().manual_seed(strata)
    pool = Pool.of(torch.arange(strata), strata)
    targets = torch.linspace(0.05, 0.999, 12).tolist()
    # Heavy tails: most of the range lies with a few gains.
    gain = torch.randn(len(targets), strata, strata, generator=g, dtype=torch.float64).pow(5)
    rows = [PolicyRow(FinetuneConfig(effective_pairs=target), pool, 1, 0.0) for target in targets]
    policies, _ = policies_of_round(rows, gain)
    for target, policy, matrix in zip(targets, policies, gain, strict=True):
        expected, _ = policy_at_effective_pairs(matrix, target)
        assert torch.allclose(policy, expected, rtol=1e-8, atol=1e-13)
        share = float(torch.special.entr(policy).sum().exp()) / int((matrix > 0).sum())
        assert share >= target - 1e-9
