"""Bounds of proportions in closed form, and their coverage by enumeration."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selmix.statistics.proportions import clopper_pearson, sidak, student_quantile, wilson

proportions = st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize("trials", [1, 5, 24])
@pytest.mark.parametrize("alpha", [0.025, 0.2])
def test_without_a_miss_or_a_hit_the_exact_bound_is_a_power(trials: int, alpha: float) -> None:
    low, high = clopper_pearson(torch.tensor([0, trials]), torch.tensor([trials, trials]), alpha)
    assert low.tolist() == pytest.approx([0.0, alpha ** (1 / trials)])
    assert high.tolist() == pytest.approx([1.0 - alpha ** (1 / trials), 1.0])


@pytest.mark.parametrize("truth", [0.03, 0.3, 0.5, 0.77, 0.99])
def test_an_exact_bound_misses_no_more_than_its_alpha(truth: float) -> None:
    """The binomial distribution summed over all numbers of hits at which a bound misses."""
    hits, alpha = torch.arange(13), 0.05
    low, high = clopper_pearson(hits, torch.full((13,), 12), alpha)
    chance = [math.comb(12, k) * truth**k * (1 - truth) ** (12 - k) for k in range(13)]
    assert sum(p for p, bound in zip(chance, low.tolist(), strict=True) if bound > truth) <= alpha
    assert sum(p for p, bound in zip(chance, high.tolist(), strict=True) if bound < truth) <= alpha


@given(proportions, st.floats(0.01, 0.5))
@settings(max_examples=30, deadline=None)
def test_bounds_of_misses_mirror_those_of_hits(drawn: tuple[int, int], alpha: float) -> None:
    hits, trials = (torch.tensor([value]) for value in drawn)
    for bounds in (clopper_pearson, wilson):
        low, high = bounds(hits, trials, alpha)
        mirrored_low, mirrored_high = bounds(trials - hits, trials, alpha)
        assert float(low) == pytest.approx(1 - float(mirrored_high), abs=1e-9)
        assert float(high) == pytest.approx(1 - float(mirrored_low), abs=1e-9)
        assert 0 <= float(low) <= drawn[0] / drawn[1] <= float(high) <= 1


@pytest.mark.parametrize(("hits", "trials"), [(3, 24), (12, 24), (1, 7)])
def test_wilson_lies_z_standard_errors_of_the_bound_itself_away(hits: int, trials: int) -> None:
    for bound in wilson(torch.tensor([hits]), torch.tensor([trials]), 0.05):
        v = float(bound)
        assert abs(v - hits / trials) == pytest.approx(1.959964 * math.sqrt(v * (1 - v) / trials), rel=1e-6)


@given(st.floats(1e-4, 0.5), st.integers(1, 30))
@settings(max_examples=20, deadline=None)
def test_sidak_makes_independent_bounds_hold_together(alpha: float, count: int) -> None:
    assert (1 - sidak(alpha, count)) ** count == pytest.approx(1 - alpha)
    assert alpha / count <= sidak(alpha, count) + 1e-12  # Bonferroni's is the smaller


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.7062), (2, 4.30265), (9, 2.26216), (10**7, 1.95996)]
)
def test_students_t_by_its_table(freedom: int, expected: float) -> None:
    assert student_quantile(freedom, 0.05) == pytest.approx(expected, rel=1e-5)
