"""Shown intervals cover the truth, do not collapse, and verdicts do not lie about ties."""

from __future__ import annotations

import math

import pytest
import torch

from selmix.definitions import Definitions
from selmix.metrics import METRICS, MetricContext, Predictions
from selmix.statistics.comparison import outcome, outcomes_against, paired_difference, tied_with_leader
from selmix.statistics.constructions import CONSTRUCTIONS
from selmix.statistics.intervals import (
    Estimate,
    all_intervals,
    counts_interval,
    metric_interval,
)
from selmix.statistics.means import linear_weights
from selmix.statistics.proportions import clopper_pearson, wilson
from tests.selmix.statistics.simulation import CLASSES, CONTEXT, TRUTHS, coverage, draw, verdicts

WEAK = [0.95] * 9 + [0.6]
EQUAL_MINIMA = {
    "both one weak": (WEAK, WEAK),
    "one weak, all weak": (WEAK, [0.6] * 10),
    "all weak, one weak": ([0.6] * 10, WEAK),
    "half weak, one weak": ([0.9] * 5 + [0.6] * 5, WEAK),
    "near the top": ([0.95] * 10, [1.0] * 9 + [0.95]),
}


@pytest.mark.parametrize("key", ["min_recall", "mean_recall"])
@pytest.mark.parametrize("truth", list(TRUTHS))
def test_coverage(key: str, truth: str) -> None:
    # 200 draws: at a true coverage of 0.95 the share stays above 0.90 with probability 0.999.
    assert coverage(key, TRUTHS[truth], 200) >= 0.90


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "least"),
    [
        ("min_head_tail_recall", 0.93), ("cvar_recall", 0.93), ("recall_gap", 0.93), ("g_mean", 0.93),
        ("h_mean", 0.93), ("q_mean", 0.90),
    ],
)  # fmt: skip
def test_coverage_of_other_metrics(key: str, least: float) -> None:
    for name, truth in TRUTHS.items():
        assert coverage(key, truth, 500) >= least - 0.02, name  # 2 percentage points: the error of 500 draws


@pytest.mark.parametrize("key", ["min_coverage", "min_head_tail_coverage"])
@pytest.mark.parametrize("truth", list(TRUTHS))
def test_coverage_of_the_least_coverage(key: str, truth: str) -> None:
    # 2 percentage points: the error of 500 draws
    assert coverage(key, TRUTHS[truth], 500) >= 0.93 - 0.02


def test_worst_case_bounds_do_not_collapse_where_classes_are_alike() -> None:
    for key in ("min_head_tail_recall", "cvar_recall", "recall_gap", "g_mean", "q_mean"):
        assert coverage(key, [0.8] * CLASSES, 60) >= 0.85, key


@pytest.mark.slow
@pytest.mark.parametrize("key", ["min_recall", "mean_recall"])
@pytest.mark.parametrize("truth", list(TRUTHS))
def test_coverage_at_length(key: str, truth: str) -> None:
    assert coverage(key, TRUTHS[truth], 3000) >= 0.93


@pytest.mark.parametrize("case", list(EQUAL_MINIMA))
def test_ties_are_called_ties(case: str) -> None:
    shares = verdicts(*EQUAL_MINIMA[case], repetitions=100)
    assert shares["tied"] >= 0.90


@pytest.mark.slow
@pytest.mark.parametrize("case", list(EQUAL_MINIMA))
def test_ties_are_called_ties_at_length(case: str) -> None:
    assert verdicts(*EQUAL_MINIMA[case], repetitions=2000)["tied"] >= 0.95


def test_a_large_difference_is_seen() -> None:
    assert verdicts([0.95] * 10, [0.95] * 9 + [0.3], repetitions=50)["better"] >= 0.9


def test_exact_bounds_invert_the_binomial() -> None:
    from scipy.stats import binomtest

    hits, trials = torch.tensor([0, 3, 12, 24]), torch.full((4,), 24)
    low, high = clopper_pearson(hits, trials, 0.025)
    for k, x in enumerate(hits.tolist()):
        reference = binomtest(x, 24).proportion_ci(0.95, "exact")
        assert float(low[k]) == pytest.approx(reference.low, abs=1e-9)
        assert float(high[k]) == pytest.approx(reference.high, abs=1e-9)
        wide = binomtest(x, 24).proportion_ci(0.95, "wilson")
        got = wilson(hits[k : k + 1], trials[k : k + 1], 0.05)
        assert [float(v) for v in got] == pytest.approx([wide.low, wide.high], abs=1e-9)


def test_intervals_do_not_collapse_where_all_is_right() -> None:
    perfect = draw([1.0] * CLASSES, torch.Generator().manual_seed(0))
    for key, estimate in all_intervals(perfect, CONTEXT).items():
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.high - estimate.low > 0.005, key
    same = paired_difference("mean_recall", [perfect], [perfect], CONTEXT)
    assert same.low < 0 < same.high


def test_every_metric_can_be_compared() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = draw([0.9] * 10, generator), draw([0.6] * 10, generator)
    for key in all_intervals(a, CONTEXT):
        difference = paired_difference(key, [a], [b], CONTEXT)
        mirrored = paired_difference(key, [b], [a], CONTEXT)
        assert difference.low <= difference.value <= difference.high
        assert difference.value == pytest.approx(-mirrored.value)
    assert outcome(paired_difference("balanced_error", [a], [b], CONTEXT)) == "better"  # less is better there
    assert outcome(paired_difference("mean_recall", [b], [a], CONTEXT)) == "worse"


def test_seeds_that_disagree_widen_the_interval() -> None:
    generator = torch.Generator().manual_seed(2)
    steady = [draw([0.9] * 10, generator)] * 3
    moving = [draw([p] * 10, generator) for p in (0.7, 0.9, 0.99)]
    base = [draw([0.8] * 10, generator)]
    narrow = paired_difference("mean_recall", steady, base, CONTEXT)
    wide = paired_difference("mean_recall", moving, base, CONTEXT)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_holm_lets_go_of_the_clearly_beaten_only() -> None:
    generator = torch.Generator().manual_seed(3)
    leader = [draw([0.95] * 10, generator, 200)]
    others = {
        "same": [draw([0.95] * 10, generator, 200)],
        "beaten": [draw([0.5] * 10, generator, 200)],
    }
    assert tied_with_leader("mean_recall", leader, others, CONTEXT) == ["same"]
    assert tied_with_leader("mean_recall", leader, {}, CONTEXT) == []


def test_several_against_one() -> None:
    """Holm by hand: the m-th clearest difference must leave 0 out at 1 - 0.05 / (number left)."""
    generator = torch.Generator().manual_seed(5)
    reference = [draw([0.8] * 10, generator, 100)]
    others = {
        f"{recall}": [draw([recall] * 10, generator, 100)] for recall in (0.5, 0.74, 0.76, 0.8, 0.84, 0.95)
    }
    outcomes = outcomes_against("mean_recall", others, reference, CONTEXT)

    def at(name: str, level: float) -> str:
        return outcome(paired_difference("mean_recall", others[name], reference, CONTEXT, level))

    def smallest_level_of_a_tie(name: str) -> float:
        levels = [1 - 0.5**k for k in range(1, 60)]
        return next(level for level in levels if at(name, level) == "tied")

    order = sorted(others, key=smallest_level_of_a_tie, reverse=True)
    expected = dict.fromkeys(others, "tied")
    for rank, name in enumerate(order):
        if at(name, 1 - 0.05 / (len(order) - rank)) == "tied":
            break
        expected[name] = at(name, 0.95)
    assert outcomes == expected
    assert (outcomes["0.5"], outcomes["0.8"], outcomes["0.95"]) == ("worse", "tied", "better")
    one = {"0.76": others["0.76"]}
    assert outcomes_against("mean_recall", one, reference, CONTEXT) == {"0.76": at("0.76", 0.95)}
    assert outcomes_against("mean_recall", {}, reference, CONTEXT) == {}


def test_refusals() -> None:
    generator = torch.Generator().manual_seed(4)
    a = draw([0.9] * 10, generator)
    with pytest.raises(ValueError, match="unknown metric"):
        metric_interval("recal", a, CONTEXT)
    with pytest.raises(ValueError, match="level"):
        metric_interval("min_recall", a, CONTEXT, 1.0)
    with pytest.raises(ValueError, match="replicates must pair"):
        paired_difference("min_recall", [a, a], [a, a, a], CONTEXT)
    with pytest.raises(ValueError, match="same samples"):
        paired_difference("min_recall", [a], [draw([0.9] * 10, generator, 12)], CONTEXT)
    with pytest.raises(ValueError, match="unknown metric"):
        paired_difference("recal", [a], [a], CONTEXT)


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.1, 0.2, "better"), (-0.1, 0.2, "tied"), (-0.2, -0.1, "worse")]
)
def test_outcome(low: float, high: float, expected: str) -> None:
    assert outcome(Estimate((low + high) / 2, low, high)) == expected


def test_every_metric_has_one_definition() -> None:
    for key, metric in METRICS.items():
        assert metric.key == key
        assert (metric.of_recalls is None) or (metric.of_counts is None)


THREE = MetricContext(torch.tensor([300, 50, 5]), Definitions(recall_weights=(1.0, 0.0, 3.0)))
UNEVEN = torch.tensor([[18.0, 1.0, 1.0], [5.0, 10.0, 5.0], [2.0, 2.0, 4.0]], dtype=torch.float64)


@pytest.mark.parametrize("key", [key for key, metric in METRICS.items() if metric.linear])
def test_weights_and_offset_are_those_of_the_linear_metric(key: str) -> None:
    metric = METRICS[key].of_recalls
    assert metric is not None
    weights, offset = linear_weights(metric, UNEVEN, THREE)
    recalls = torch.tensor([0.9, 0.5, 0.5], dtype=torch.float64)
    assert float(offset + weights @ recalls) == pytest.approx(float(METRICS[key].of(UNEVEN, THREE)))
    assert offset == (1.0 if key == "balanced_error" else 0.0)


def test_the_interval_of_a_linear_metric_of_one_class_is_exact() -> None:
    """``many_shot_recall`` is the recall of class 0 here, ``few_shot_recall`` that of class 2."""
    low, high = clopper_pearson(UNEVEN.diagonal(), UNEVEN.sum(dim=1), 0.025)
    for key, k in (("many_shot_recall", 0), ("medium_shot_recall", 1), ("few_shot_recall", 2)):
        found = counts_interval(key, UNEVEN, THREE)
        assert (found.low, found.high) == pytest.approx((float(low[k]), float(high[k])))
    error, mean = (counts_interval(key, UNEVEN, THREE) for key in ("balanced_error", "mean_recall"))
    assert (error.low, error.value, error.high) == pytest.approx(
        (1 - mean.high, 1 - mean.value, 1 - mean.low)
    )


@pytest.mark.parametrize("key", [key for key in METRICS if CONSTRUCTIONS[key].has_interval])
def test_a_higher_level_gives_a_wider_interval_and_the_same_value(key: str) -> None:
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(3).repeat(20)
    predicted = torch.where(torch.rand(60, generator=generator) < 0.7, labels, (labels + 1) % 3)
    groups = torch.arange(60) // 3 % 2
    confidence = torch.rand(60, generator=generator)
    scores = torch.rand(60, 3, generator=generator, dtype=torch.float64)
    scores[torch.arange(60), predicted] += 1.0
    predictions = Predictions(labels, predicted, confidence, groups, torch.log_softmax(scores, dim=1))
    costs = ((0.0, 1.0, 2.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0))
    context = MetricContext(
        THREE.train_counts, Definitions(recall_weights=(1.0, 2.0, 3.0), cost_matrix=costs), 2
    )
    narrow, wide = (metric_interval(key, predictions, context, level) for level in (0.5, 0.99))
    assert wide.value == narrow.value == pytest.approx(predictions.value(METRICS[key], context))
    assert wide.low <= narrow.low <= narrow.value <= narrow.high <= wide.high
    assert wide.high - wide.low > narrow.high - narrow.low
    assert metric_interval(key, predictions, context, 0.5) == narrow


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, math.nan])
def test_levels_outside_their_range_are_refused_everywhere(level: float) -> None:
    predictions = draw([0.9] * 10, torch.Generator().manual_seed(0))
    for key in ("mean_recall", "calibration_error", "macro_f1"):
        with pytest.raises(ValueError, match=r"interval: level must lie in \(0, 1\)"):
            metric_interval(key, predictions, CONTEXT, level)
