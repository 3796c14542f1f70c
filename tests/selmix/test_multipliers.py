"""Multipliers in closed form: on the simplex or at a floor, and carried from round to round."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selmix.multipliers import (
    BoundState,
    MultiplierSettings,
    WorstCaseState,
    bound_weights,
    constraint_multipliers,
    worst_case_multipliers,
)

shares = st.lists(st.floats(0, 1), min_size=1, max_size=6)


@given(shares, st.floats(0, 100), st.floats(-3, 3))
@settings(max_examples=40, deadline=None)
def test_weights_lie_on_the_simplex_fall_with_the_value_and_ignore_a_shift(
    values: list[float], lr: float, shift: float
) -> None:
    given_values = torch.tensor(values, dtype=torch.float64)
    found = worst_case_multipliers(given_values, MultiplierSettings(lr=lr))
    total = sum(math.exp(-lr * (v - min(values))) for v in values)
    assert found.tolist() == pytest.approx(
        [math.exp(-lr * (v - min(values))) / total for v in values], abs=1e-12
    )
    assert torch.allclose(
        worst_case_multipliers(given_values + shift, MultiplierSettings(lr=lr)), found, atol=1e-9
    )


def test_uniform_weights_of_the_past_are_no_past() -> None:
    values = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)
    settings = MultiplierSettings(lr=3.0, decay=0.7)
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
    assert torch.allclose(
        worst_case_multipliers(values, settings, uniform), worst_case_multipliers(values, settings)
    )
    far = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    without = MultiplierSettings(lr=3.0, decay=0.0)
    assert torch.equal(worst_case_multipliers(values, without, far), worst_case_multipliers(values, without))


def test_a_weight_that_has_underflowed_can_grow_again() -> None:
    settings = MultiplierSettings(lr=2000.0, decay=1.0)
    previous = torch.tensor([1.0, 0.0], dtype=torch.float64)
    found = worst_case_multipliers(torch.tensor([1.0, 0.0], dtype=torch.float64), settings, previous)
    assert found.tolist() == [0.0, 1.0]


@given(shares, st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_multipliers_are_zero_where_the_floor_holds_and_at_most_the_maximum(
    values: list[float], floor: float
) -> None:
    settings = MultiplierSettings(temperature=0.05, maximum=7.0)
    found = constraint_multipliers(torch.tensor(values, dtype=torch.float64), floor, settings)
    expected = [max(0.0, 7.0 * (1.0 - math.exp(min(0.0, v - floor) / 0.05))) for v in values]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)
    assert bool((found <= 7.0).all())


def test_a_tiny_violation_keeps_its_digits_and_a_large_slack_does_not_overflow() -> None:
    settings = MultiplierSettings(temperature=1e-4)
    found = constraint_multipliers(torch.tensor([-1e-20, 1e6], dtype=torch.float64), 0.0, settings)
    assert found.tolist() == pytest.approx([100 * 1e-16, 0.0], rel=1e-6)


def test_floors_may_differ_from_group_to_group() -> None:
    settings = MultiplierSettings(temperature=0.1, maximum=1.0)
    found = constraint_multipliers(torch.tensor([0.5, 0.5]), torch.tensor([0.4, 0.6]), settings)
    assert found.tolist() == pytest.approx([0.0, 1.0 - math.exp(-1.0)], rel=1e-5)


def test_a_state_that_is_read_back_continues_as_the_first_one_does() -> None:
    settings = MultiplierSettings(lr=4.0, decay=0.5)
    rounds = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    whole, first, second = (WorstCaseState(settings) for _ in range(3))
    assert first.state_dict() == {"multipliers": None}
    for values in rounds[:2]:
        whole.update(values)
        first.update(values)
    second.load_state_dict(first.state_dict())
    for values in rounds[2:]:
        assert torch.equal(second.update(values), whole.update(values))


@given(shares, st.floats(-2, 2))
@settings(max_examples=40, deadline=None)
def test_weights_of_a_bound_do_not_depend_on_the_bound(values: list[float], shift: float) -> None:
    slacks = torch.tensor(values, dtype=torch.float64)
    found = bound_weights(slacks)
    total = sum(math.exp(-20.0 * (v - min(values))) for v in values)
    assert found.tolist() == pytest.approx([math.exp(-20.0 * (v - min(values))) / total for v in values])
    assert torch.allclose(bound_weights(slacks + shift), found, atol=1e-9)


def test_the_multiplier_of_a_bound_by_hand() -> None:
    """From 1: half a step up at a slack of -0.025, a whole one at -0.3, one down at +1; then its limits."""
    state = BoundState(2)
    value = 1.0
    for slack, step in ((-0.025, 0.5), (-0.3, 1.0), (1.0, -1.0), (0.0, 0.0)):
        value *= math.exp(0.5 * step)
        missed, other = state.update([torch.tensor([slack], dtype=torch.float64), torch.zeros(3).double()])
        assert missed.tolist() == pytest.approx([value])
        assert other.tolist() == pytest.approx([1 / 3] * 3)  # a slack of 0: it stays where it began
    for slack, limit in ((-1.0, 20.0), (1.0, 0.01)):
        for _ in range(40):
            held, _ = state.update([torch.tensor([slack]), torch.zeros(3)])
        assert float(held) == pytest.approx(limit)


def test_a_bound_that_is_read_back_continues_as_the_first_one_does() -> None:
    rounds = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)) / 10
    whole, first, second = (BoundState(1) for _ in range(3))
    for slacks in rounds[:2]:
        whole.update([slacks])
        first.update([slacks])
    second.load_state_dict(first.state_dict())
    first.update([rounds[0]])  # a state that was handed over does not move with its owner
    for slacks in rounds[2:]:
        (a,), (b,) = second.update([slacks]), whole.update([slacks])
        assert torch.equal(a, b)
