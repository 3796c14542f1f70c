"""From gain to P: limits, masks, the scale-free temperature, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from selmix.policy import (
    NoPositiveGain,
    balanced_policy,
    epsilon_policy,
    greedy_policy,
    policy_at_effective_pairs,
    policy_perplexity,
    proportional_policy,
    sampling_policy,
    uniform_policy,
)


def random_gain(seed: int, size: int) -> torch.Tensor:
    return torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [1, 2, 10, 40])
def test_policy_is_a_softmax_of_positive_gains(seed: int, size: int) -> None:
    gain = random_gain(seed, size)
    gain[0, 0] = 1.0
    policy = sampling_policy(gain, 0.3)
    weights = [[math.exp(g / 0.3) if g > 0 else 0.0 for g in row] for row in gain.tolist()]
    total = sum(map(sum, weights))
    expected = torch.tensor([[w / total for w in row] for row in weights], dtype=torch.float64)
    assert torch.allclose(policy, expected, atol=1e-14)
    assert policy.sum() == pytest.approx(1.0, abs=1e-12)


def test_limits_of_the_temperature() -> None:
    gain = random_gain(1, 6)
    positive = gain > 0
    assert torch.allclose(sampling_policy(gain, math.inf)[positive], 1.0 / positive.sum().double())
    cold = sampling_policy(gain, 1e-9)
    assert cold.argmax() == gain.argmax()
    assert cold.max() == 1.0


def test_masked_pairs_are_never_drawn() -> None:
    gain = random_gain(2, 5)
    drawable = torch.ones(5, 5, dtype=torch.bool)
    drawable[int(gain.argmax()) // 5] = False
    for policy in (
        sampling_policy(gain, 0.1, drawable),
        policy_at_effective_pairs(gain, 0.3, drawable)[0],
        uniform_policy(drawable),
        balanced_policy(drawable),
    ):
        assert (policy[~drawable] == 0).all()
        assert policy.sum() == pytest.approx(1.0)
    balanced = balanced_policy(drawable)
    assert torch.count_nonzero(balanced) == 4
    assert torch.allclose(
        balanced.diagonal()[balanced.diagonal() > 0], torch.tensor(0.25, dtype=torch.float64)
    )


def test_no_positive_gain_is_said() -> None:
    with pytest.raises(NoPositiveGain, match=r"largest gain is -0\.5"):
        sampling_policy(torch.full((3, 3), -0.5), 1.0)
    gain = torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
    with pytest.raises(NoPositiveGain):
        policy_at_effective_pairs(gain, 0.5, torch.tensor([[False, True], [True, True]]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e6])
@pytest.mark.parametrize("target", [0.05, 0.3, 0.9, 0.999])
def test_effective_pairs_reach_their_target(seed: int, scale: float, target: float) -> None:
    gain = scale * random_gain(seed, 12)
    policy, temperature = policy_at_effective_pairs(gain, target)
    assert policy_perplexity(policy) / int((gain > 0).sum()) == pytest.approx(target, rel=1e-6)
    assert torch.allclose(policy, sampling_policy(gain, temperature), atol=1e-9)


def test_effective_pairs_at_their_ends() -> None:
    gain = torch.tensor([[3.0, 3.0, 1.0], [0.5, 0.2, -1.0], [-1.0, -1.0, 0.1]])
    ties, temperature = policy_at_effective_pairs(
        gain, 0.2
    )  # 2 of 6 tie at the top: less than a third is unattainable
    assert temperature == 0.0
    assert ties[0].tolist() == [0.5, 0.5, 0.0]
    flat, temperature = policy_at_effective_pairs(gain, 1.0)
    assert temperature == math.inf
    assert policy_perplexity(flat) == pytest.approx(6.0)
    equal, _ = policy_at_effective_pairs(torch.ones(2, 2), 0.3)
    assert torch.allclose(equal, torch.tensor(0.25, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be > 0"):
        sampling_policy(torch.ones(2, 2), temperature)


@pytest.mark.parametrize(
    "gain", [torch.ones(2, 3), torch.tensor([[math.nan, 1.0], [1.0, 1.0]]), torch.ones(3)]
)
def test_gain_is_refused(gain: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="finite square matrix"):
        sampling_policy(gain, 1.0)


@pytest.mark.parametrize("target", [0.0, 1.1, -0.3])
def test_target_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match="effective_pairs"):
        policy_at_effective_pairs(torch.ones(2, 2), target)


def test_nothing_drawable_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        uniform_policy(torch.zeros(2, 2, dtype=torch.bool))


def test_greedy_takes_the_best_pairs_and_their_ties() -> None:
    gain = torch.tensor([[3.0, 1.0, -1.0], [2.0, 2.0, 0.0], [0.5, -3.0, 0.1]])
    assert greedy_policy(gain, 1).tolist() == [[1.0, 0, 0], [0, 0, 0], [0, 0, 0]]
    third = 1 / 3
    assert greedy_policy(gain, 2).flatten().tolist() == pytest.approx([third, 0, 0, third, third, 0, 0, 0, 0])
    assert torch.allclose(greedy_policy(gain, 100), (gain > 0).double() / 6)
    without = torch.ones(3, 3, dtype=torch.bool)
    without[0, 0] = False
    assert greedy_policy(gain, 1, without).flatten().tolist() == [0, 0, 0, 0.5, 0.5, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="top_k must be >= 1"):
        greedy_policy(gain, 0)


def test_proportional_to_the_positive_gains() -> None:
    gain = torch.tensor([[3.0, 1.0], [-4.0, 1.0]])
    assert proportional_policy(gain).tolist() == [[0.6, 0.2], [0.0, 0.2]]
    with pytest.raises(NoPositiveGain):
        proportional_policy(-gain.abs())


def test_epsilon_mixes_uniform_pairs_in() -> None:
    drawable = torch.tensor([[True, True], [True, False]])
    policy = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    mixed = epsilon_policy(policy, 0.3, drawable)
    assert mixed.flatten().tolist() == pytest.approx([0.8, 0.1, 0.1, 0.0])
    assert torch.equal(epsilon_policy(policy, 0.0, drawable), policy)
    with pytest.raises(ValueError, match="epsilon must lie in"):
        epsilon_policy(policy, 1.1, drawable)
