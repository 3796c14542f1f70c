"""G-, H- and Q-mean: ends of the scale, the way back from the mean, and coverage where one class is at zero."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selmix.metrics import METRICS, MetricContext, Predictions
from selmix.statistics.curved_means import CURVES, curved_bounds, curved_difference
from tests.selmix.statistics.simulation import coverage

CONTEXT = MetricContext(torch.tensor([9, 5, 1]))


def counts_of(hits: list[float], trials: float) -> torch.Tensor:
    """A matrix with these hits, its misses in the next column."""
    matrix = torch.zeros(len(hits), len(hits), dtype=torch.float64)
    for k, hit in enumerate(hits):
        matrix[k, k], matrix[k, (k + 1) % len(hits)] = hit, trials - hit
    return matrix


def predictions(hits: list[int], trials: int) -> Predictions:
    labels = torch.arange(len(hits)).repeat_interleave(trials)
    right = torch.arange(trials).repeat(len(hits)) < torch.tensor(hits)[labels]
    predicted = torch.where(right, labels, (labels + 1) % len(hits))
    return Predictions(labels, predicted, torch.ones(len(labels)))


@pytest.mark.parametrize("key", list(CURVES))
def test_a_perfect_model_reaches_one_and_not_only_one(key: str) -> None:
    low, high = curved_bounds(key, counts_of([20, 20, 20], 20), CONTEXT, 0.05)
    assert high == pytest.approx(1.0, abs=0.02)
    assert 0.7 < low < 0.97


@pytest.mark.parametrize("key", list(CURVES))
def test_a_class_without_a_hit_leaves_the_lower_limit_of_products_at_zero(key: str) -> None:
    low, high = curved_bounds(key, counts_of([0, 20, 20], 20), CONTEXT, 0.05)
    value = float(METRICS[key].of(counts_of([0, 20, 20], 20), CONTEXT))
    assert (low == 0.0) == (key != "q_mean")
    assert high > value + 0.02
    # Two zeros once gave limits of 0 and 0.
    assert curved_bounds(key, counts_of([0, 0, 20], 20), CONTEXT, 0.05)[1] > 0.1


@given(st.lists(st.tuples(st.floats(0.05, 1.0), st.floats(0.05, 1.0)), min_size=2, max_size=6))
@settings(max_examples=40, deadline=None)
def test_differences_of_the_mean_go_back_to_those_of_the_metric(recalls: list[tuple[float, float]]) -> None:
    ours, theirs = torch.tensor(recalls, dtype=torch.float64).T
    prior = torch.ones(len(recalls)) / len(recalls)
    for key, curve in CURVES.items():
        metric = METRICS[key].of_recalls
        assert metric is not None
        a, b = (float(metric(side, prior, CONTEXT)) for side in (ours, theirs))
        means = [float(curve.of(side).mean()) for side in (ours, theirs)]
        assert curve.back(means[0]) == pytest.approx(a)
        assert curve.difference(a, b, means[0] - means[1]) == pytest.approx(a - b, abs=1e-7)
        assert math.copysign(1, curve.difference(a, b, 0.1)) == (1 if curve.rises else -1) or a == b == 1
        slopes = ((curve.of(ours + 1e-6) - curve.of(ours - 1e-6)) / 2e-6).abs()
        assert torch.allclose(slopes, curve.slope(ours), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("key", list(CURVES))
@pytest.mark.parametrize(("ours", "theirs"), [([20, 20, 20], [20, 20, 20]), ([0, 15, 20], [12, 15, 0])])
def test_differences_at_the_ends_of_the_scale_have_limits(
    key: str, ours: list[int], theirs: list[int]
) -> None:
    a, b = predictions(ours, 20), predictions(theirs, 20)
    low, high = curved_difference(key, a, b, CONTEXT, 0.05)
    back = curved_difference(key, b, a, CONTEXT, 0.05)
    assert -1 <= low < -0.001
    assert 0.001 < high <= 1
    assert (low, high) == pytest.approx((-back[1], -back[0]))


def test_a_large_difference_leaves_zero_out() -> None:
    a, b = predictions([95, 95, 95], 100), predictions([60, 60, 60], 100)
    for key in CURVES:
        assert curved_difference(key, a, b, CONTEXT, 0.05)[0] > 0.2, key


@pytest.mark.parametrize("key", list(CURVES))
def test_a_recall_near_zero_is_covered(key: str) -> None:
    # 100 draws: at a true coverage of .95 fewer than 88 with probability .002.
    assert coverage(key, [0.02, 0.05, *[0.9] * 8], 100) >= 0.88
