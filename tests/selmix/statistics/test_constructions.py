"""The table of limits: complete, and every entry usable at the ends of the scale."""

from __future__ import annotations

import pytest
import torch

from selmix.definitions import Definitions
from selmix.metrics import METRICS, MetricContext, Predictions
from selmix.statistics.comparison import paired_difference
from selmix.statistics.constructions import CONSTRUCTIONS, Construction
from selmix.statistics.intervals import counts_interval, metric_interval

CONTEXT = MetricContext(
    torch.tensor([300, 50, 5]),
    Definitions(
        recall_weights=(1.0, 2.0, 3.0), cost_matrix=((0.0, 1.0, 4.0), (1.0, 0.0, 1.0), (2.0, 1.0, 0.0))
    ),
    num_groups=2,
)


def model(right: float, seed: int, each: int = 20) -> Predictions:
    """Predictions of three classes in two groups, right with one probability."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat(each)
    hit = torch.rand(len(labels), generator=g) < right
    predicted = torch.where(hit, labels, (labels + 1 + torch.randint(2, labels.shape, generator=g)) % 3)
    return Predictions(
        labels, predicted, torch.rand(len(labels), generator=g), torch.arange(3 * each) // 3 % 2
    )


def test_every_metric_has_one_construction_in_words_and_functions() -> None:
    assert CONSTRUCTIONS.keys() == METRICS.keys()
    for key, each in CONSTRUCTIONS.items():
        assert all((each.single, each.paired, each.why)), key
        assert (each.of_counts is None) != (each.of_predictions is None), key
        assert (each.pair is None) != (each.influence is None), key


@pytest.mark.parametrize("key", list(METRICS))
@pytest.mark.parametrize("right", [0.0, 1.0])
def test_models_that_are_always_or_never_right_have_limits_of_some_width(key: str, right: float) -> None:
    one, other = model(right, 0), model(right, 1)
    single = metric_interval(key, one, CONTEXT)
    assert single.high - single.low > 0.01
    # Of one that is always right the same sample twice; of one that is never right other mistakes.
    difference = paired_difference(key, [one], [other], CONTEXT)
    assert difference.low <= difference.value <= difference.high
    assert difference.high - difference.low > 0.01


@pytest.mark.parametrize("key", list(METRICS))
@pytest.mark.parametrize("right", [0.3, 0.7, 1.0])
def test_equal_predictions_have_an_interval_that_holds_nothing(key: str, right: float) -> None:
    ours = [model(right, seed) for seed in range(3)]
    for sides in (ours[:1], ours):
        found = paired_difference(key, sides, sides, CONTEXT)
        assert found.value == 0.0
        assert found.low <= 0.0 <= found.high
        assert found.low == pytest.approx(-found.high)


@pytest.mark.parametrize("key", list(METRICS))
def test_replicates_of_both_sides_change_the_sign_with_them(key: str) -> None:
    ours, theirs = ([model(right, seed) for seed in seeds] for right, seeds in ((0.8, (1, 2)), (0.5, (3, 4))))
    one, other = paired_difference(key, ours, theirs, CONTEXT), paired_difference(key, theirs, ours, CONTEXT)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low), abs=1e-9)


def test_what_counts_do_not_give_is_refused() -> None:
    with pytest.raises(ValueError, match="calibration_error is no metric of counts"):
        counts_interval("calibration_error", torch.eye(3), CONTEXT)
    empty = Construction("", "", "")
    with pytest.raises(AssertionError, match="a construction has pair or influence"):
        empty.difference(model(1.0, 0), model(1.0, 0), 0.0, CONTEXT, 0.05)
