"""Policy of a round: warm-up, the sharpness that the schedule has reached, and what is reported of it."""

from __future__ import annotations

import pytest
import torch

from selmix.config import FinetuneConfig
from selmix.policy import NoPositiveGain, policy_at_effective_pairs, policy_perplexity, sampling_policy
from selmix.policy_schedule import policy_of_round

GAIN = torch.tensor([[0.3, 0.1, -0.1], [0.2, 0.25, 0.0], [0.05, -0.3, 0.4]], dtype=torch.float64)
DRAWABLE = torch.ones(3, 3, dtype=torch.bool)
COUNTS = torch.tensor([6, 3, 1])


def of_round(
    config: FinetuneConfig, gain: torch.Tensor | None = GAIN, number: int = 1, progress: float = 0.0
) -> tuple[torch.Tensor, dict[str, float]]:
    scalars: dict[str, float] = {}
    return policy_of_round(config, gain, DRAWABLE, COUNTS, number, progress, scalars), scalars


@pytest.mark.parametrize(("progress", "level"), [(0.0, 0.2), (0.5, 0.11), (1.0, 0.02)])
def test_a_temperature_falls_to_a_tenth_where_no_end_is_set(progress: float, level: float) -> None:
    config = FinetuneConfig(temperature=0.2, temperature_schedule="linear")
    policy, scalars = of_round(config, progress=progress)
    assert scalars["temperature"] == pytest.approx(level)
    assert torch.allclose(policy, sampling_policy(GAIN, level))


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.8), (0.5, 0.65), (1.0, 0.5)])
def test_a_share_of_the_pairs_follows_its_schedule(progress: float, share: float) -> None:
    config = FinetuneConfig(effective_pairs=0.8, temperature_schedule="linear", temperature_final=0.5)
    policy, scalars = of_round(config, progress=progress)
    expected, temperature = policy_at_effective_pairs(GAIN, share)
    assert torch.equal(policy, expected)
    assert scalars["temperature"] == temperature
    assert scalars["effective_pairs_share"] == pytest.approx(share)


def test_a_constant_sharpness_reads_no_end() -> None:
    config = FinetuneConfig(temperature=0.2, temperature_final=9.0)
    assert of_round(config, progress=1.0)[1]["temperature"] == 0.2


@pytest.mark.parametrize("policy", ["softmax", "greedy", "loss_weight", "uniform"])
def test_warm_up_ends_after_its_rounds(policy: str) -> None:
    config = FinetuneConfig(policy=policy, warmup_rounds=2, top_k=1)
    gain = None if policy == "uniform" else GAIN
    rounds = [of_round(config, gain, number)[0] for number in (1, 2, 3)]
    warm = torch.diag(COUNTS / 10.0) if policy == "loss_weight" else torch.full((3, 3), 1 / 9)
    assert torch.allclose(rounds[0], warm.double())
    assert torch.equal(rounds[0], rounds[1])
    assert torch.equal(rounds[1], rounds[2]) == (policy == "uniform")


def test_warm_up_needs_no_positive_gain() -> None:
    config = FinetuneConfig(warmup_rounds=1)
    policy, scalars = of_round(config, -GAIN.abs() - 0.1)
    assert scalars == {
        "positive_pairs": 0.0, "policy_perplexity": policy_perplexity(policy),
        "effective_pairs_share": pytest.approx(9.0),
    }  # fmt: skip
    with pytest.raises(NoPositiveGain):
        of_round(config, -GAIN.abs() - 0.1, number=2)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (FinetuneConfig(), {"temperature", "positive_pairs", "policy_perplexity", "effective_pairs_share"}),
        (FinetuneConfig(policy="greedy"), {"positive_pairs", "policy_perplexity", "effective_pairs_share"}),
        (FinetuneConfig(policy="balanced"), {"policy_perplexity"}),
    ],
)
def test_a_round_reports_what_its_policy_uses(config: FinetuneConfig, names: set[str]) -> None:
    policy, scalars = of_round(config, GAIN if config.pair_policy.targeted else None)
    assert scalars.keys() == names
    assert scalars["policy_perplexity"] == policy_perplexity(policy)
    if "positive_pairs" in scalars:
        assert scalars["positive_pairs"] == 6.0


def test_pairs_that_cannot_be_drawn_are_not_counted_as_positive() -> None:
    scalars: dict[str, float] = {}
    drawable = torch.eye(3, dtype=torch.bool)
    policy = policy_of_round(
        FinetuneConfig(policy="greedy", top_k=9), GAIN, drawable, COUNTS, 1, 0.0, scalars
    )
    assert scalars["positive_pairs"] == 3.0
    assert torch.allclose(policy, torch.eye(3).double() / 3)
