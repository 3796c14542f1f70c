"""The table of limits: complete, and every entry usable at the ends of the scale."""

from __future__ import annotations

import pytest
import torch

from selmix.definitions import Definitions
from selmix.metrics import METRICS, MetricContext, Predictions
from selmix.statistics.comparison import paired_difference
from selmix.statistics.constructions import CONSTRUCTIONS, NO_INTERVAL, Construction
from selmix.statistics.intervals import all_intervals, counts_interval, metric_interval

WITH_INTERVAL = [key for key in METRICS if CONSTRUCTIONS[key].has_interval]
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
    confidence, groups = torch.rand(len(labels), generator=g), torch.arange(3 * each) // 3 % 2
    return Predictions(labels, predicted, confidence, groups, scores_of(predicted, g))


def scores_of(predicted: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """Logarithms of probabilities of three classes, of which the predicted one has the largest."""
    logits = torch.rand(len(predicted), 3, generator=g, dtype=torch.float64)
    logits[torch.arange(len(predicted)), predicted] += 1.0
    return torch.log_softmax(logits, dim=1)


def test_every_metric_has_one_construction_in_words_and_functions() -> None:
    assert CONSTRUCTIONS.keys() == METRICS.keys()
    for key, each in CONSTRUCTIONS.items():
        assert all((each.single, each.paired, each.why)), key
        given = [
            part is not None for part in (each.of_counts, each.of_predictions, each.pair, each.influence)
        ]
        assert sum(given[:2]) == sum(given[2:]) == each.has_interval, key
        assert (each.single == NO_INTERVAL) == (each.paired == NO_INTERVAL) == (not each.has_interval), key


@pytest.mark.parametrize("key", WITH_INTERVAL)
@pytest.mark.parametrize("right", [0.0, 1.0])
def test_models_that_are_always_or_never_right_have_limits_of_some_width(key: str, right: float) -> None:
    one, other = model(right, 0), model(right, 1)
    single = metric_interval(key, one, CONTEXT)
    assert single.high - single.low > 0.01
    # Of one that is always right the same sample twice; of one that is never right other mistakes.
    difference = paired_difference(key, [one], [other], CONTEXT)
    assert difference.low <= difference.value <= difference.high
    assert difference.high - difference.low > 0.01


@pytest.mark.parametrize("key", WITH_INTERVAL)
@pytest.mark.parametrize("right", [0.3, 0.7, 1.0])
def test_equal_predictions_have_an_interval_that_holds_nothing(key: str, right: float) -> None:
    ours = [model(right, seed) for seed in range(3)]
    for sides in (ours[:1], ours):
        found = paired_difference(key, sides, sides, CONTEXT)
        assert found.value == 0.0
        assert found.low <= 0.0 <= found.high
        assert found.low == pytest.approx(-found.high)


@pytest.mark.parametrize("key", WITH_INTERVAL)
def test_replicates_of_both_sides_change_the_sign_with_them(key: str) -> None:
    ours, theirs = ([model(right, seed) for seed in seeds] for right, seeds in ((0.8, (1, 2)), (0.5, (3, 4))))
    one, other = paired_difference(key, ours, theirs, CONTEXT), paired_difference(key, theirs, ours, CONTEXT)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low), abs=1e-9)


def test_what_counts_do_not_give_is_refused() -> None:
    with pytest.raises(ValueError, match="calibration_error is no metric of counts"):
        counts_interval("calibration_error", torch.eye(3), CONTEXT)
    empty = Construction("", "", "")
    with pytest.raises(ValueError, match="no interval of a difference is known"):
        empty.difference(model(1.0, 0), model(1.0, 0), 0.0, CONTEXT, 0.05)


def test_metrics_without_an_interval_say_why() -> None:
    assert set(METRICS) - set(WITH_INTERVAL) == {"log_loss", "average_precision"}
    one = model(0.7, 0)
    for key in ("log_loss", "average_precision"):
        with pytest.raises(ValueError, match=f"{key} has no interval: "):
            metric_interval(key, one, CONTEXT)
        with pytest.raises(ValueError, match="no interval of a difference is known: "):
            paired_difference(key, [one], [one], CONTEXT)
    assert list(all_intervals(one, CONTEXT)) == WITH_INTERVAL
