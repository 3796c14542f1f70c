"""From gain to P: limits, masks, the scale-free temperature, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selmix.policy import (
    POLICIES,
    NoPositiveGain,
    PolicyInputs,
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


GAIN = torch.tensor([[3.0, 1.0, -1.0], [2.0, 2.0, 0.0], [0.5, -3.0, 0.1]], dtype=torch.float64)
DRAWABLE = torch.tensor([[True, True, True], [True, False, True], [True, True, True]])


def policy_of(name: str, gain: torch.Tensor, drawable: torch.Tensor = DRAWABLE) -> torch.Tensor:
    """A policy of the table, with a temperature of 0.5, two pairs and a uniform share of 0.2."""
    inputs = PolicyInputs(gain, drawable, lambda: sampling_policy(gain, 0.5, drawable), 2, 0.2)
    return POLICIES[name].pairs(inputs)


def test_the_probabilities_of_every_policy_by_hand() -> None:
    """Of the drawable pairs five have positive gain: 3, 1, 2, 0.5 and 0.1; the other 2 cannot be drawn."""
    gains = {(0, 0): 3.0, (0, 1): 1.0, (1, 0): 2.0, (2, 0): 0.5, (2, 2): 0.1}
    total = sum(math.exp(g / 0.5) for g in gains.values())
    soft = {pair: math.exp(g / 0.5) / total for pair, g in gains.items()}
    pairs = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    expected = {
        "softmax": soft,
        "loss_weight": soft,
        "greedy": {(0, 0): 0.5, (1, 0): 0.5},
        "proportional": {pair: g / 6.6 for pair, g in gains.items()},
        "epsilon": {pair: 0.8 * soft.get(pair, 0.0) + 0.2 / 8 for pair in pairs},
        "uniform": dict.fromkeys(pairs, 1 / 8),
        "balanced": {(0, 0): 0.5, (2, 2): 0.5},
    }
    assert expected.keys() == POLICIES.keys()
    for name, shares in expected.items():
        found = policy_of(name, GAIN)
        assert found.dtype == torch.float64
        for i, row in enumerate(found.tolist()):
            assert row == pytest.approx([shares.get((i, j), 0.0) for j in range(3)], abs=1e-12), name


@pytest.mark.parametrize("name", list(POLICIES))
@given(st.integers(0, 10_000), st.integers(2, 5))
@settings(max_examples=15, deadline=None)
def test_a_policy_is_a_distribution_that_follows_the_names_of_the_strata(
    name: str, seed: int, size: int
) -> None:
    """Relabelled strata give the relabelled P; gains are rounded, so that some tie."""
    g = torch.Generator().manual_seed(seed)
    gain = torch.randn(size, size, generator=g, dtype=torch.float64).round(decimals=1)
    drawable = torch.rand(size, size, generator=g) < 0.8
    gain[0, 0], drawable[0, 0] = 1.0, True
    found, order = policy_of(name, gain, drawable), torch.randperm(size, generator=g)
    assert float(found.sum()) == pytest.approx(1.0)
    assert bool((found >= 0).all())
    assert float(found[~drawable].sum()) == 0.0
    again = policy_of(name, gain[order][:, order], drawable[order][:, order])
    assert torch.allclose(again, found[order][:, order], atol=1e-12)


@pytest.mark.parametrize("name", list(POLICIES))
def test_without_positive_gain_only_the_policies_that_do_not_read_it_draw(name: str) -> None:
    gain = -GAIN.abs()
    gain[1, 1] = 1.0  # positive, but it cannot be drawn
    if POLICIES[name].targeted:
        with pytest.raises(NoPositiveGain, match="no drawable pair has positive gain"):
            policy_of(name, gain)
    else:
        assert float(policy_of(name, gain).sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("name", list(POLICIES))
def test_the_gain_is_read_exactly_where_a_policy_is_targeted(name: str) -> None:
    other = GAIN.clone()
    other[2, 1] = 9.0
    assert torch.equal(policy_of(name, GAIN), policy_of(name, other)) != POLICIES[name].targeted
    without = PolicyInputs(None, DRAWABLE, lambda: uniform_policy(DRAWABLE), 2, 0.2)
    if name in ("greedy", "proportional"):
        with pytest.raises(AssertionError, match="a targeted policy needs the gain, got None"):
            POLICIES[name].pairs(without)


@pytest.mark.parametrize("name", list(POLICIES))
def test_one_pair_is_drawn_with_certainty(name: str) -> None:
    one = torch.ones(1, 1, dtype=torch.bool)
    assert policy_of(name, torch.tensor([[0.3]], dtype=torch.float64), one).tolist() == [[1.0]]


def test_all_ties_share_alike() -> None:
    tied = torch.full((3, 3), 0.7, dtype=torch.float64)
    for name in ("softmax", "greedy", "proportional", "epsilon", "loss_weight"):
        assert torch.allclose(policy_of(name, tied), DRAWABLE.double() / 8), name


def test_the_settings_that_act_are_those_that_change_a_policy() -> None:
    """``top_k`` and ``epsilon`` of the table, against policies with other values of them."""
    changed = {
        name: PolicyInputs(GAIN, DRAWABLE, lambda: sampling_policy(GAIN, 0.5, DRAWABLE), k, epsilon)
        for name, k, epsilon in (("top_k", 1, 0.2), ("epsilon", 2, 0.9))
    }
    for name, policy in POLICIES.items():
        plain = policy_of(name, GAIN)
        acting = {key for key, inputs in changed.items() if not torch.equal(policy.pairs(inputs), plain)}
        assert acting == set(policy.reads) & {"top_k", "epsilon"}, name


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9).filter(lambda w: sum(w) > 0.1))
@settings(max_examples=30, deadline=None)
def test_perplexity_lies_between_one_and_the_number_of_pairs(weights: list[float]) -> None:
    shares = [w / sum(weights) for w in weights]
    expected = math.exp(-sum(p * math.log(p) for p in shares if p > 0))
    found = policy_perplexity(torch.tensor(shares, dtype=torch.float64))
    assert found == pytest.approx(expected)
    assert 1 - 1e-9 <= found <= len([p for p in shares if p > 0]) + 1e-9


def test_nan_and_a_negative_share_of_uniform_pairs_are_refused() -> None:
    policy = torch.ones(1, 1, dtype=torch.float64)
    for epsilon in (-0.1, math.nan):
        with pytest.raises(ValueError, match="epsilon must lie in"):
            epsilon_policy(policy, epsilon, torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least one pair must be drawable"):
        balanced_policy(torch.tensor([[False, True], [True, False]]))
