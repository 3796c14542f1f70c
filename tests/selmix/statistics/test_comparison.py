"""Verdicts: Holm by hand, both sides alike, ties of equal models, and replicates."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selmix.metrics import METRICS, MetricContext, Predictions, evaluate_predictions
from selmix.statistics.comparison import (
    holm,
    mean_over_replicates,
    outcome,
    outcomes_against,
    over_replicates,
    paired_difference,
    tied_with_leader,
)
from selmix.statistics.constructions import CONSTRUCTIONS
from selmix.statistics.intervals import Estimate

COSTS = ((0.0, 1.0, 4.0), (1.0, 0.0, 1.0), (2.0, 1.0, 0.0))
CONTEXT = MetricContext(torch.tensor([300, 50, 5]), num_groups=2)
CONTEXT = dataclasses.replace(
    CONTEXT,
    definitions=dataclasses.replace(CONTEXT.definitions, recall_weights=(1.0, 2.0, 3.0), cost_matrix=COSTS),
)
WITH_INTERVAL = [key for key in METRICS if CONSTRUCTIONS[key].has_interval]
SWAP = {"better": "worse", "worse": "better", "tied": "tied"}


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


def normal(value: float, error: float, level: float) -> Estimate:
    """Normal interval of a difference."""
    z = float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)))
    return Estimate(value, value - z * error, value + z * error)


def test_every_metric_has_a_value_here() -> None:
    assert evaluate_predictions(model(0.8, 0), CONTEXT).keys() == METRICS.keys()


@pytest.mark.parametrize("key", WITH_INTERVAL)
def test_identical_predictions_differ_by_nothing(key: str) -> None:
    ours = model(0.7, 0)
    found = paired_difference(key, [ours], [ours], CONTEXT)
    assert found.value == 0.0
    assert found.low <= 0.0 <= found.high
    assert outcome(found) == "tied"


@pytest.mark.parametrize("key", WITH_INTERVAL)
def test_sides_that_change_places_change_the_sign_alone(key: str) -> None:
    ours, theirs = model(0.8, 1), model(0.5, 2)
    one, other = (paired_difference(key, [a], [b], CONTEXT) for a, b in ((ours, theirs), (theirs, ours)))
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low), abs=1e-9)
    values = [evaluate_predictions(side, CONTEXT)[key] for side in (ours, theirs)]
    assert one.value == pytest.approx(METRICS[key].sign * (values[0] - values[1]), abs=1e-6)


differences = st.lists(st.tuples(st.floats(-0.4, 0.4), st.floats(0.02, 0.2)), max_size=6)


@given(differences, st.sampled_from([0.8, 0.95]))
@settings(max_examples=60, deadline=None)
def test_holm_is_the_textbook_procedure_on_p_values(drawn: list[tuple[float, float]], level: float) -> None:
    """Of normal differences: the p-values rise, and the r-th must not exceed alpha / (m - r)."""
    named = {f"m{k}": pair for k, pair in enumerate(drawn)}
    found = holm(named, lambda name, at: normal(*named[name], at), level)
    p = {name: math.erfc(abs(d / e) / math.sqrt(2)) for name, (d, e) in named.items()}
    expected = dict.fromkeys(named, "tied")
    for rank, name in enumerate(sorted(p, key=lambda each: p[each])):
        bound = (1 - level) / (len(p) - rank)
        if abs(p[name] - bound) < 1e-9:
            return  # on the edge rounding decides
        if p[name] > bound:
            break
        expected[name] = "better" if named[name][0] > 0 else "worse"
    assert found == expected


@given(differences)
@settings(max_examples=40, deadline=None)
def test_outcomes_of_negated_differences_are_the_opposite_ones(drawn: list[tuple[float, float]]) -> None:
    named = {f"m{k}": pair for k, pair in enumerate(drawn)}
    one = holm(named, lambda name, at: normal(*named[name], at), 0.95)
    other = holm(named, lambda name, at: normal(-named[name][0], named[name][1], at), 0.95)
    assert other == {name: SWAP[held] for name, held in one.items()}


def test_one_comparison_is_not_corrected_and_the_first_tie_ends_all() -> None:
    borders = {"a": (0.2, 0.1), "b": (0.21, 0.1)}  # z of 2.0 and 2.1; two comparisons need 2.24 for the first
    assert holm(["a"], lambda name, at: normal(*borders[name], at), 0.95) == {"a": "better"}
    assert holm(borders, lambda name, at: normal(*borders[name], at), 0.95) == {"a": "tied", "b": "tied"}
    clear = borders | {"c": (0.9, 0.1)}
    assert holm(clear, lambda name, at: normal(*clear[name], at), 0.95) == {
        "a": "tied",
        "b": "tied",
        "c": "better",
    }
    assert holm([], lambda name, at: normal(0.0, 1.0, at), 0.95) == {}


def test_one_sided_a_negative_difference_is_never_ahead_in_the_order() -> None:
    """The leader's own ranking: one that is clearly ahead of it must not take the first, strictest place."""
    named = {"ahead": (-0.9, 0.1), "beaten": (0.23, 0.1), "close": (0.0, 0.1)}
    one_sided = holm(named, lambda name, at: normal(*named[name], at), 0.6, two_sided=False)
    assert one_sided == {"ahead": "tied", "beaten": "better", "close": "tied"}
    two_sided = holm(named, lambda name, at: normal(*named[name], at), 0.6)
    assert two_sided == {"ahead": "worse", "beaten": "better", "close": "tied"}


def test_a_difference_that_is_certain_comes_first() -> None:
    named = {"certain": Estimate(0.3, 0.3, 0.4), "noise": Estimate(0.01, -0.1, 0.1)}
    assert holm(named, lambda name, _: named[name], 0.95) == {"certain": "better", "noise": "tied"}
    # One-sided, one that is certainly behind comes last, and two that are equal are not certain.
    named = {
        "behind": Estimate(-0.3, -0.3, -0.2),
        "equal": Estimate(0.0, 0.0, 0.0),
        "clear": Estimate(0.3, 0.1, 0.5),
    }
    assert holm(named, lambda name, _: named[name], 0.95, two_sided=False)["clear"] == "better"


def test_equal_models_are_tied_with_the_leader_and_with_a_reference() -> None:
    leader, poor = [model(0.95, 0, 100)], [model(0.4, 1, 100)]
    others = {"same": leader, "poor": poor, "twin": list(leader)}
    for key in ("min_recall", "mean_recall", "macro_f1", "worst_group_recall"):
        assert tied_with_leader(key, leader, others, CONTEXT) == ["same", "twin"], key
        found = outcomes_against(key, others, leader, CONTEXT)
        assert found == {"same": "tied", "poor": "worse", "twin": "tied"}, key


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=5), st.floats(0, 0.3), st.floats(0, 0.3))
@settings(max_examples=30, deadline=None)
def test_seeds_add_students_t_to_the_mean_half_width(values: list[float], down: float, up: float) -> None:
    found = over_replicates([Estimate(v, v - down, v + up) for v in values])
    n, mean = len(values), sum(values) / len(values)
    t = {2: 12.7062, 3: 4.30265, 4: 3.18245, 5: 2.77645}[n]
    half = t * math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    expected = (mean, mean - math.hypot(down, half), mean + math.hypot(up, half))
    # 1e-4: the table of t has six digits, and a limit may lie near 0.
    assert (found.value, found.low, found.high) == pytest.approx(expected, abs=1e-4)
    one = Estimate(values[0], values[0] - down, values[0] + up)
    assert over_replicates([one]).low == pytest.approx(one.low)


@pytest.mark.parametrize("key", ["min_recall", "recall_gap", "recall/dog"])
def test_the_interval_of_a_fraction_ends_at_its_ends(key: str) -> None:
    spread = [Estimate(v, v - 0.05, v + 0.05) for v in (0.95, 0.05)]
    assert over_replicates(spread).low < 0.0
    assert over_replicates(spread).high > 1.0
    found = mean_over_replicates(key, spread)
    assert (found.low, found.high) == (0.0, 1.0)
    assert mean_over_replicates("mcc", spread).low == -1.0


@pytest.mark.parametrize(
    "costs",
    [
        [Estimate(3.0, 2.0, 4.0), Estimate(0.5, 0.1, 0.9)],
        # Every single interval lies in [0, 1], and the mean's is that of a cost all the same.
        [Estimate(0.9, 0.85, 0.95), Estimate(0.1, 0.05, 0.15)],
        [Estimate(0.05, 0.01, 0.1), Estimate(-0.2, -0.3, -0.1)],
    ],
)
def test_the_interval_of_a_cost_ends_nowhere(costs: list[Estimate]) -> None:
    for key in ("cost", "own:utility"):
        assert mean_over_replicates(key, costs) == over_replicates(costs)
    assert mean_over_replicates("cost", costs).low < 0.0


@pytest.mark.parametrize("key", ["mean_recall", "min_recall"])
def test_one_model_stands_against_every_replicate(key: str) -> None:
    single, several = model(0.8, 0), [model(0.7, seed) for seed in (1, 2, 3)]
    found = paired_difference(key, [single], several, CONTEXT)
    assert paired_difference(key, [single] * 3, several, CONTEXT) == found
    averaged = over_replicates([paired_difference(key, [single], [other], CONTEXT) for other in several])
    assert found.value == pytest.approx(averaged.value)
    if key == "min_recall":
        assert found == averaged
    else:
        # A sum over samples is crossed with them, which does not count their noise once for every seed.
        assert found.high - found.low < averaged.high - averaged.low


def test_sides_without_predictions_or_on_other_samples_are_refused() -> None:
    ours = model(0.8, 0)
    with pytest.raises(
        ValueError, match="replicates must pair: one, or as many as the other side, got 0 and 1"
    ):
        paired_difference("mean_recall", [], [ours], CONTEXT)
    with pytest.raises(ValueError, match=r"replicates must pair.*got 2 and 3"):
        paired_difference("mean_recall", [ours] * 2, [ours] * 3, CONTEXT)
    turned = ours.take(torch.arange(59, -1, -1))
    with pytest.raises(
        ValueError, match="same samples in the same order, got 60 and 60 samples whose labels differ"
    ):
        paired_difference("mean_recall", [ours], [turned], CONTEXT)
