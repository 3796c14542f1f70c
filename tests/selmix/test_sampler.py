"""Pairs are drawn with the probabilities of P, uniformly within a stratum."""

from __future__ import annotations

import pytest
import torch

from selmix.policy import uniform_policy
from selmix.sampler import PairSampler

LABELS = torch.tensor([2, 0, 0, 2, 2, 1, 0, 2])


def test_frequencies_follow_the_policy() -> None:
    sampler = PairSampler(LABELS, 3)
    policy = torch.tensor([[0.0, 0.5, 0.1], [0.0, 0.1, 0.0], [0.25, 0.0, 0.05]], dtype=torch.float64)
    sampler.set_policy(policy)
    first, second = sampler.draw(200_000, torch.Generator().manual_seed(0))
    pairs = torch.bincount(3 * LABELS[first] + LABELS[second], minlength=9).view(3, 3) / 200_000
    # Five standard deviations of a share of 0.5 in 200,000 draws are 0.0056.
    assert torch.allclose(pairs.double(), policy, atol=0.006)
    assert (pairs[policy == 0] == 0).all()
    within = torch.bincount(first[LABELS[first] == 0], minlength=8)[[1, 2, 6]].double()
    assert torch.allclose(within / within.sum(), torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.008)


def test_second_set() -> None:
    second_labels = torch.tensor([1, 1, 0])
    sampler = PairSampler(LABELS, 3, second=second_labels)
    assert sampler.drawable.tolist() == [[True, True, False]] * 3
    sampler.set_policy(uniform_policy(sampler.drawable))
    first, second = sampler.draw(500, torch.Generator().manual_seed(1))
    assert first.max() == 7
    assert second.max() == 2
    assert set(second_labels[second].tolist()) == {0, 1}


def test_more_cells_than_multinomial_takes() -> None:
    strata = torch.arange(4200)  # 17.6 million pairs; torch.multinomial ends at 2^24
    sampler = PairSampler(strata, 4200)
    policy = torch.zeros(4200, 4200, dtype=torch.float64)
    policy[4199, 4198] = 0.5
    policy[0, 1] = 0.5
    sampler.set_policy(policy)
    first, second = sampler.draw(100, torch.Generator().manual_seed(2))
    assert {(int(i), int(j)) for i, j in zip(first, second, strict=True)} == {(4199, 4198), (0, 1)}


def test_same_seed_same_pairs() -> None:
    sampler = PairSampler(LABELS, 3)
    sampler.set_policy(uniform_policy(sampler.drawable))
    draws = [sampler.draw(50, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(draws[0][0], draws[1][0])
    assert torch.equal(draws[0][1], draws[1][1])


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (torch.ones(2, 2) / 4, "3 x 3"),
        (torch.ones(3, 3), "sum to 1"),
        (torch.tensor([[2.0, -1.0, 0.0], [0.0] * 3, [0.0] * 3]), ">= 0"),
    ],
)
def test_policy_is_refused(policy: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairSampler(LABELS, 3).set_policy(policy)


def test_weight_on_an_empty_stratum_is_refused() -> None:
    sampler = PairSampler(torch.tensor([0, 0, 1]), 3)
    with pytest.raises(ValueError, match="without samples"):
        sampler.set_policy(torch.full((3, 3), 1 / 9))


def test_draw_needs_a_policy() -> None:
    with pytest.raises(RuntimeError, match="set_policy"):
        PairSampler(LABELS, 3).draw(1, torch.Generator())


def test_strata_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 2\)"):
        PairSampler(LABELS, 2)


@pytest.mark.parametrize("seed", range(3))
def test_draws_are_the_inverse_transform_of_the_seeds_uniform_numbers(seed: int) -> None:
    """Three numbers a pair: one for the pair of strata, one for each sample within its stratum."""
    policy = torch.rand(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    policy[1, 0] = policy[2, 2] = 0.0
    policy /= policy.sum()
    sampler = PairSampler(LABELS, 3)
    sampler.set_policy(policy)
    first, second = sampler.draw(40, torch.Generator().manual_seed(seed))
    uniform = torch.rand(3, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    members = [[k for k, label in enumerate(LABELS.tolist()) if label == stratum] for stratum in range(3)]
    for k in range(40):
        total, pair = 0.0, -1
        while uniform[0][k] >= total:
            pair += 1
            total += float(policy.flatten()[pair])
        row, column = members[pair // 3], members[pair % 3]
        assert int(first[k]) == row[int(uniform[1][k] * len(row))]
        assert int(second[k]) == column[int(uniform[2][k] * len(column))]


def test_counts_and_pairs_of_empty_strata() -> None:
    sampler = PairSampler(torch.tensor([0, 2, 2]), 4, second=torch.tensor([1]))
    assert sampler.counts.tolist() == [1, 0, 2, 0]
    assert torch.nonzero(sampler.drawable).tolist() == [[0, 1], [2, 1]]
    assert not PairSampler(torch.empty(0, dtype=torch.int64), 2).drawable.any()


def test_the_last_pair_with_weight_is_the_last_that_is_drawn() -> None:
    """The sum of the shares rounds; a number next to it must not fall on a pair beyond, which has no sample."""
    sampler = PairSampler(torch.tensor([0, 1]), 3)
    policy = torch.zeros(3, 3, dtype=torch.float64)
    policy[:2, :2] = 0.25 * (1 - 5e-7)  # within what the check of the sum allows
    sampler.set_policy(policy)
    first, second = sampler.draw(5000, torch.Generator().manual_seed(0))
    pairs = torch.bincount(2 * first + second, minlength=4) / 5000
    assert float((pairs - 0.25).abs().max()) < 4 * (0.25 * 0.75 / 5000) ** 0.5


def test_a_policy_that_is_refused_leaves_the_one_before() -> None:
    sampler = PairSampler(LABELS, 3)
    sampler.set_policy(torch.eye(3, dtype=torch.float64) / 3)
    with pytest.raises(ValueError, match="sum to 1, got sum nan"):
        sampler.set_policy(torch.full((3, 3), float("nan")))
    first, second = sampler.draw(100, torch.Generator().manual_seed(0))
    assert torch.equal(LABELS[first], LABELS[second])
