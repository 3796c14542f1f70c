"""Verdicts by hand-made intervals, the default margins, and how many samples would tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import NormalDist

import pytest

from selmix.definitions import Definitions
from selmix.metrics import METRICS
from selmix.statistics.intervals import Estimate
from selmix.statistics.verdict import (
    CALIBRATION_MARGIN,
    DISCORDANT,
    Judgement,
    default_margin,
    is_minimum,
    judge,
    samples_needed,
    samples_to_tie,
)

MARGIN = 0.02


def normal(differences: Mapping[str, tuple[float, float]]) -> Callable[[str, float], Estimate]:
    """Normal intervals of differences: name -> (value, standard error)."""

    def interval(name: str, level: float) -> Estimate:
        value, error = differences[name]
        half = error * NormalDist().inv_cdf(0.5 + level / 2.0)
        return Estimate(value, value - half, value + half)

    return interval


def judged(against: str = "a", margin: float = MARGIN, **differences: tuple[float, float]) -> Judgement:
    """``name=(value, z)``: a difference that lies z standard errors from 0."""
    sides = {name: (value, abs(value / z)) for name, (value, z) in differences.items()}
    return judge(normal(sides), tuple(sides), against, margin)


def test_better_is_better_than_every_opponent_without_a_correction() -> None:
    # z of 2 has an interval at 95 % above 0, at 97.5 % not.
    made = judged(a=(0.1, 2.0), b=(0.2, 2.0), c=(0.3, 9.0))
    assert (made.outcome, made.better_than, made.not_told_apart) == ("better", ("a", "b", "c"), ())
    made = judged(a=(0.1, 2.0), b=(0.2, 1.9))
    assert (made.outcome, made.better_than, made.not_told_apart) == ("undecided", ("a",), ("b",))


@pytest.mark.parametrize(("value", "within"), [(0.009, True), (0.011, False)])
def test_better_by_less_than_the_margin_has_its_upper_limit_below_it(value: float, within: bool) -> None:
    # The upper limit is about 1.98 times the value.
    made = judged(a=(value, 2.0), b=(0.5, 9.0))
    assert (made.outcome, made.within_margin) == ("better", within)
    # The opponent that was fixed on select decides, however near another one is.
    assert not judged("b", a=(value, 2.0), b=(0.5, 9.0)).within_margin


def test_worse_is_corrected_for_the_number_of_opponents() -> None:
    # One-sided in the order, two-sided at 1 - .05 / m: z must pass 1.96, of two opponents first 2.24.
    assert judged(a=(-0.1, 2.0)).outcome == "worse"
    made = judged(a=(-0.1, 2.0), b=(0.3, 1.0))
    assert (made.outcome, made.not_told_apart) == ("undecided", ("a", "b"))
    made = judged(a=(-0.1, 2.3), b=(0.3, 1.0))
    assert (made.outcome, made.worse_than, made.not_told_apart) == ("worse", ("a",), ("b",))
    # After the first is rejected the second has the plain level left.
    made = judged(a=(-0.1, 2.3), b=(-0.1, 2.0))
    assert made.worse_than == ("a", "b")
    # The plain interval of b lies below 0, but Holm's order stops before it.
    made = judged(a=(-0.1, 2.2), b=(-0.1, 2.0))
    assert (made.outcome, made.worse_than) == ("undecided", ())


def test_worse_than_one_is_worse_however_many_it_beats() -> None:
    made = judged("b", a=(-0.1, 5.0), b=(0.2, 9.0), c=(0.2, 9.0))
    assert (made.outcome, made.better_than, made.worse_than) == ("worse", ("b", "c"), ("a",))


def test_tied_needs_every_lower_limit_and_the_upper_one_of_the_opponent_of_select() -> None:
    narrow = Estimate(0.0, -0.01, 0.01)
    cases = {"a": narrow, "far_ahead": Estimate(0.05, -0.01, 0.11), "wide_below": Estimate(0.0, -0.03, 0.01)}

    def outcome(against: str, *names: str) -> str:
        return judge(lambda name, _: cases[name], names, against, MARGIN).outcome

    assert outcome("a", "a") == "tied"
    # Another opponent may lie far below: that does not make them differ.
    assert outcome("a", "a", "far_ahead") == "tied"
    assert outcome("far_ahead", "a", "far_ahead") == "undecided"
    assert outcome("a", "a", "wide_below") == "undecided"


def test_a_limit_on_the_edge_claims_nothing() -> None:
    for edge in (Estimate(0.1, 0.0, 0.2), Estimate(-0.1, -0.2, 0.0)):
        assert judge(lambda *_, edge=edge: edge, ("a",), "a", MARGIN).outcome == "undecided"
    for edge in (Estimate(0.0, -MARGIN, 0.01), Estimate(0.0, -0.01, MARGIN)):
        assert judge(lambda *_, edge=edge: edge, ("a",), "a", MARGIN).outcome == "undecided"
    # Equal predictions have an interval without a width.
    assert judge(lambda *_: Estimate(0.0, 0.0, 0.0), ("a",), "a", MARGIN).outcome == "tied"


def test_the_differences_are_those_of_the_plain_level() -> None:
    made = judged(a=(0.1, 2.0), b=(0.3, 1.0))
    assert made.differences["a"].low == pytest.approx(0.1 - 0.05 * 1.95996, abs=1e-5)
    assert list(made.differences) == ["a", "b"]


def test_the_opponent_of_select_must_be_one() -> None:
    with pytest.raises(ValueError, match="against: must be one of the opponents a, b, got 'c'"):
        judged("c", a=(0.1, 2.0), b=(0.1, 2.0))
    with pytest.raises(ValueError, match="got 'a'"):
        judge(lambda *_: Estimate(0.0, 0.0, 0.0), (), "a", MARGIN)


# -- margins --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", METRICS)
def test_every_metric_has_a_margin_of_its_unit(key: str) -> None:
    expected = {"min_coverage": 0.1 / 7, "min_head_tail_coverage": 0.1 / 7}
    # Of predictions: those of the calibration.
    expected |= {key: 0.01 for key, metric in METRICS.items() if metric.of_predictions is not None}
    assert default_margin(key, 7) == pytest.approx(expected.get(key, 0.02))


def test_the_margin_of_a_cost_is_a_share_of_the_range_of_its_matrix() -> None:
    costs = Definitions(cost_matrix=((0.0, 5.0), (-1.0, 2.0)))
    assert default_margin("cost", 2, costs) == pytest.approx(0.02 * 6.0)
    assert default_margin("min_recall", 2, costs) == 0.02
    assert default_margin("calibration_error", 2, costs) == CALIBRATION_MARGIN


# -- samples --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difference", "needed"),
    [
        # The lower limit at 0: twice as narrow, four times the samples.
        (Estimate(0.05, -0.05, 0.15), 400),
        (Estimate(-0.05, -0.15, 0.05), 400),
        # Nothing observed: the margin at either end, five times as narrow.
        (Estimate(0.0, -0.1, 0.1), 2_500),
        # .01 would be better at 10 times, tied at .04 to each side: .1 / .03 below, .1 / .01 above: 10 times, too.
        (Estimate(0.01, -0.09, 0.11), 10_000),
        # .015: better at .1 / .015; a tie would take .1 / .005.
        (Estimate(0.015, -0.085, 0.115), 4_445),
        # Limits of their own on each side: tied at max(.04 / .02, .1 / .02).
        (Estimate(0.0, -0.04, 0.1), 2_500),
        # It tells already: not fewer than there are.
        (Estimate(0.1, 0.05, 0.15), 100),
        (Estimate(0.0, 0.0, 0.0), 100),
    ],
)
def test_samples_that_would_tell_by_hand(difference: Estimate, needed: int) -> None:
    assert samples_needed(difference, 100, MARGIN) == pytest.approx(needed, abs=1)


def test_worse_takes_the_samples_of_its_corrected_interval() -> None:
    difference, corrected = Estimate(-0.05, -0.09, -0.01), Estimate(-0.05, -0.15, 0.05)
    assert samples_needed(difference, 100, MARGIN) == 100
    assert samples_needed(difference, 100, MARGIN, corrected) == 400
    # Of a positive difference nothing is corrected.
    assert samples_needed(Estimate(0.05, -0.05, 0.15), 100, MARGIN, Estimate(0.05, -0.95, 1.0)) == 400


def test_a_difference_of_exactly_the_margin_is_told_from_0_only() -> None:
    assert samples_needed(Estimate(MARGIN, -0.08, 0.12), 100, MARGIN) == 2_500
    assert samples_needed(Estimate(float("nan"), 0.0, 0.0), 100, MARGIN) is None
    assert samples_needed(Estimate(0.0, -float("inf"), float("inf")), 100, MARGIN) is None


@pytest.mark.parametrize(
    ("margin", "discordant", "needed"),
    [(0.02, 1.0, 9_604), (0.02, 0.05, 481), (0.02, 0.16, 1_537), (0.04, 0.16, 385), (0.01, 0.16, 6_147)],
)
def test_samples_that_a_tie_takes(margin: float, discordant: float, needed: int) -> None:
    assert samples_to_tie(margin, discordant) == needed
    # With so many, and no observed difference, the interval of a discordant share ends at the margin.
    half = NormalDist().inv_cdf(0.975) * (discordant / needed) ** 0.5
    assert half <= margin < half * (needed / (needed - 1)) ** 0.5


def test_a_tie_is_asked_of_a_typical_share_of_discordant_samples() -> None:
    assert samples_to_tie(0.02) == samples_to_tie(0.02, DISCORDANT) == 1_537


def test_minima_rest_on_one_class() -> None:
    assert [key for key in METRICS if is_minimum(key)] == [
        "min_recall", "min_precision", "worst_group_recall",
    ]  # fmt: skip
