"""The mean of the worst recalls: its least limit over sets against all sets, and what pairing gains."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selmix.definitions import Definitions
from selmix.metrics import MetricContext, Predictions
from selmix.statistics.cvar import cvar_bounds, cvar_difference, least_of_better, least_over_sets


def all_shares(classes: int, amount: float) -> list[torch.Tensor]:
    """Shares c of every set of so many classes."""
    whole, found = int(amount + 1e-9), []
    rest = amount - whole
    for inside in itertools.combinations(range(classes), whole):
        others = [k for k in range(classes) if k not in inside]
        for last in others if rest > 1e-9 else [None]:
            shares = torch.zeros(classes, dtype=torch.float64)
            shares[list(inside)] = 1.0
            if last is not None:
                shares[last] = rest
            found.append(shares)
    return found


def by_enumeration(values: torch.Tensor, margins: torch.Tensor, amount: float) -> float:
    """Least of [sum c d - sqrt(sum c^2 w^2)] / amount over all sets of classes."""
    sets = all_shares(len(values), amount)
    return min(float(shares @ values - (shares * margins).norm()) / amount for shares in sets)


classes = st.lists(st.tuples(st.floats(-0.5, 0.5), st.floats(0.01, 0.5)), min_size=2, max_size=7)


@given(classes, st.floats(0.01, 1.0))
@settings(max_examples=60, deadline=None)
def test_the_least_over_sets_is_a_lower_bound_of_that_of_all_sets(
    drawn: list[tuple[float, float]], share: float
) -> None:
    values, margins = torch.tensor(drawn, dtype=torch.float64).T
    amount = max(1.0, share * len(drawn))
    found, exact = least_over_sets(values, margins, amount), by_enumeration(values, margins, amount)
    assert found <= exact + 1e-9


def test_the_least_over_sets_is_close_to_that_of_all_sets() -> None:
    """But where two sets of unlike margins are as good at the same lambda, which is rare."""
    generator, gaps = torch.Generator().manual_seed(0), []
    for _ in range(300):
        count = int(torch.randint(2, 7, (1,), generator=generator))
        values, margins, share = torch.rand(3, count, generator=generator, dtype=torch.float64)
        amount = max(1.0, float(share[0]) * count)
        gap = by_enumeration(values, margins, amount) - least_over_sets(values, margins, amount)
        gaps.append(gap / float(margins.max()))
    assert sum(gaps) / len(gaps) < 0.01
    assert sorted(gaps)[290] < 0.1


@given(st.lists(st.tuples(*[st.floats(0.01, 0.5)] * 4), min_size=2, max_size=6), st.floats(0.01, 1.0))
@settings(max_examples=60, deadline=None)
def test_the_least_of_the_better_limits_is_a_lower_bound_of_that_of_all_sets(
    drawn: list[tuple[float, float, float, float]], share: float
) -> None:
    theirs, margins, ours, downs = torch.tensor(drawn, dtype=torch.float64).T
    amount, centre, up = max(1.0, share * len(drawn)), float(theirs.min()), 0.1
    found = least_of_better((ours - theirs, margins), (ours, downs), (centre, up), amount)
    exact = min(
        max(
            float(c @ (ours - theirs) - (c * margins).norm()) / amount,
            float(c @ ours) / amount - centre - math.hypot(float((c * downs).norm()) / amount, up),
        )
        for c in all_shares(len(drawn), amount)
    )
    assert found <= exact + 1e-9


def test_a_class_that_is_weaker_in_theirs_alone_is_seen_though_other_sets_are_alike() -> None:
    """Nine classes alike: pairing sees nothing on their sets, which lie far above the worst of theirs."""
    theirs = torch.tensor([0.6, *[0.95] * 9], dtype=torch.float64)
    ours = torch.tensor([0.8, *[0.95] * 9], dtype=torch.float64)
    margins = torch.tensor([0.05, *[0.02] * 9], dtype=torch.float64)
    sets = (ours - theirs, margins), (ours, margins)
    assert least_over_sets(*sets[0], 2.0) < 0
    exact = min(  # without class 0, paired; or apart, against .775
        0.1 - math.hypot(0.05, 0.02) / 2, 0.95 - 0.775 - math.hypot(0.02 * math.sqrt(2) / 2, 0.05)
    )
    # Weighted means of the two limits fall short of the better one, by a quarter here.
    assert 0.7 * exact < least_of_better(*sets, (0.775, 0.05), 2.0) < exact


@pytest.mark.parametrize("amount", [1.0, 2.0, 2.5, 4.0])
def test_of_equal_margins_it_is_that_of_the_smallest_values(amount: float) -> None:
    values, margins = torch.tensor([0.3, -0.2, 0.1, 0.0], dtype=torch.float64), torch.full((4,), 0.2).double()
    exact = by_enumeration(values, margins, amount)
    # The grid's steps are 12 %: the root's approximation is out by a thousandth of the margin at most.
    assert least_over_sets(values, margins, amount) == pytest.approx(exact, abs=0.001 * 0.2)


def test_without_margins_it_is_the_mean_of_the_worst() -> None:
    values = torch.tensor([0.3, -0.2, 0.1, 0.0], dtype=torch.float64)
    found = least_over_sets(values, torch.zeros(4, dtype=torch.float64), 2.5)
    assert found == pytest.approx((-0.2 + 0.0 + 0.5 * 0.1) / 2.5, abs=1e-4)


def pair(together: float, seed: int) -> tuple[Predictions, Predictions]:
    """Ten classes of 100, two of them weak; the models share the luck of a sample with probability ``together``."""
    generator, labels = torch.Generator().manual_seed(seed), torch.arange(10).repeat_interleave(100)
    recalls = torch.tensor([0.7, 0.7, *[0.9] * 8])[labels]
    ours, theirs = (torch.rand(1000, generator=generator) for _ in range(2))
    theirs = torch.where(torch.rand(1000, generator=generator) < together, ours, theirs)
    a, b = (
        Predictions(labels, torch.where(side < recalls, labels, (labels + 1) % 10), torch.ones(1000))
        for side in (ours, theirs)
    )
    return a, b


@pytest.mark.parametrize("fraction", [0.2, 0.25, 1.0])
def test_models_that_agree_are_distinguished_by_fewer_samples(fraction: float) -> None:
    context = MetricContext(torch.full((10,), 5), Definitions(cvar_fraction=fraction))
    widths = []
    for together in (0.0, 0.9):
        ends = [cvar_difference(*pair(together, seed), context, 0.05) for seed in range(10)]
        assert sum(low <= 0 <= high for low, high in ends) >= 8
        widths.append(sum(high - low for low, high in ends))
    assert widths[1] < 0.6 * widths[0]


def test_limits_are_no_wider_than_those_of_the_sides_where_different_classes_are_weak() -> None:
    """Pairing gains next to nothing there, and nothing is paid for it: MOVER stands at the whole level beside it."""
    context, labels = MetricContext(torch.full((10,), 5)), torch.arange(10).repeat_interleave(100)
    sides = []
    for weak in (0, 1):
        predicted = labels.clone()
        wrong = [predicted[100 * k : 100 * k + (40 if k == weak else 5)] for k in range(10)]
        for k, each in enumerate(wrong):
            each.fill_((k + 1) % 10)
        sides.append(Predictions(labels, predicted, torch.ones(1000)))
    bounds = cvar_bounds(sides[0].counts(10).double(), context, 0.05)
    value = (0.6 + 0.95 + 0.95) / 3
    half = math.hypot(value - bounds[0], bounds[1] - value)
    low, high = cvar_difference(sides[0], sides[1], context, 0.05)
    # At the shared level, 0.8 of alpha, the limits would lie 2 % farther out than these.
    assert -half - 1e-12 <= low < 0 < high <= half + 1e-12


def test_the_worst_of_one_class_is_the_minimum() -> None:
    """A share below 1 / K: the lower limit is the least of the exact ones."""
    context = MetricContext(torch.tensor([5, 5]), Definitions(cvar_fraction=0.1))
    counts = torch.tensor([[12.0, 8.0], [2.0, 18.0]], dtype=torch.float64)
    low, high = cvar_bounds(counts, context, 0.05)
    assert low == pytest.approx(0.3605, abs=1e-4)  # binomial tables: 12 of 20
    assert high > 0.6
