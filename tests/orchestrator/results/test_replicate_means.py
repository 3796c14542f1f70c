"""Means over replicates: a score of 0 is a score, no score is the last rank, and the interval has a closed form."""

from __future__ import annotations

import math

import pytest

from orchestrator.records.types import Figure, TrialRecord
from orchestrator.results.replicate_means import mean_score, mean_select, score_of

T_OF_ONE = 12.706204736
"""97.5 % quantile of Student's t with one degree of freedom: tan(0.475 pi)."""


def run(score: float | None = None, **select: tuple[float, float, float]) -> TrialRecord:
    figures = {key: Figure(*values) for key, values in select.items()}
    return TrialRecord("o/trial-000/seed-1", "o", "replicate", 0, 1, score=score, select=figures)


def test_a_score_of_zero_is_a_score() -> None:
    assert score_of(run(0.0)) == 0.0
    assert score_of(run(-0.0)) == 0.0
    assert score_of(run(0.0)) > score_of(run(-1e-300)) > score_of(run(None))


def test_no_score_is_the_last_rank_of_all() -> None:
    assert score_of(run(None)) == -math.inf
    assert mean_score([run(0.9), run(None)]) == -math.inf


@pytest.mark.parametrize(
    ("scores", "mean"),
    [([0.0], 0.0), ([0.0, 0.0], 0.0), ([0.0, 0.6], 0.3), ([-0.5, 0.5], 0.0), ([1, 2, 6], 3.0)],
)
def test_the_mean_counts_zeros(scores: list[float], mean: float) -> None:
    assert mean_score([run(score) for score in scores]) == pytest.approx(mean, abs=1e-15)


def test_one_replicate_keeps_its_intervals() -> None:
    assert mean_select([run(m=(0.0, 0.0, 0.2))]) == {"m": Figure(0.0, 0.0, 0.2)}


def test_metrics_that_one_lacks_are_left_out_in_the_order_of_the_first() -> None:
    plain = (0.5, 0.4, 0.6)
    first, second = run(z=plain, b=plain, a=plain), run(a=plain, c=plain, z=plain)
    assert list(mean_select([first, second])) == ["z", "a"]
    assert list(mean_select([second, first])) == ["a", "z"]
    assert mean_select([first, run()]) == {}


def test_half_widths_are_averaged_and_the_spread_between_seeds_is_added() -> None:
    # Values 1.98 and 2.02 have a standard error of 0.02; half-widths are 0.1 and 0.3 down, 0.2 and 0.2 up.
    mean = mean_select([run(cost=(1.98, 1.88, 2.18)), run(cost=(2.02, 1.72, 2.22))])["cost"]
    assert mean.value == pytest.approx(2.0)
    assert mean.low == pytest.approx(2.0 - math.hypot(0.2, T_OF_ONE * 0.02))
    assert mean.high == pytest.approx(2.0 + math.hypot(0.2, T_OF_ONE * 0.02))


def test_the_interval_of_a_fraction_ends_at_0_and_1_and_that_of_a_cost_does_not() -> None:
    fraction = mean_select([run(m=(0.2, 0.1, 0.3)), run(m=(0.8, 0.7, 0.9))])["m"]
    assert (fraction.low, fraction.high) == (0.0, 1.0)
    cost = mean_select([run(cost=(0.2, 0.1, 0.3)), run(cost=(0.8, 0.7, 0.9))])["cost"]
    assert cost.low < 0.0
    assert cost.high > 1.0
