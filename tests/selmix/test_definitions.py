"""Metrics with parameters: CVaR as the optimum that defines it, and every problem of a definition named."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selmix.definitions import ClassRate, Definitions, cvar_of_recalls, cvar_weights


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7), st.floats(0.01, 1))
@settings(max_examples=50, deadline=None)
def test_cvar_is_the_largest_of_rockafellar_and_uryasev(values: list[float], fraction: float) -> None:
    """max_t t - mean(max(0, t - v)) / a, whose maximum lies at one of the values; a is 1 / K at least."""
    share = max(fraction, 1 / len(values))
    best = max(t - sum(max(0.0, t - v) for v in values) / len(values) / share for t in values)
    found = cvar_of_recalls(torch.tensor(values, dtype=torch.float64), fraction)
    assert float(found) == pytest.approx(best, abs=1e-9)


@given(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.7, 1.0]), min_size=1, max_size=7), st.floats(0.01, 1))
@settings(max_examples=50, deadline=None)
def test_the_weights_of_cvar_give_it_and_are_equal_where_recalls_are(
    values: list[float], fraction: float
) -> None:
    recalls = torch.tensor(values, dtype=torch.float64)
    weights = cvar_weights(recalls, fraction)
    assert float(weights @ recalls) == pytest.approx(float(cvar_of_recalls(recalls, fraction)), abs=1e-12)
    assert float(weights.sum()) == pytest.approx(1.0)
    assert bool((weights >= 0).all())
    assert len(set(zip(values, weights.tolist(), strict=True))) == len(set(values))


@pytest.mark.parametrize(
    ("name", "key"),
    [("dog", "recall/dog"), ("tabby cat", "recall/tabby cat"), ("", "recall/class 3"), ("a/b", "recall/class 3"),
     ("tench (fish)", "recall/class 3"), ("..", "recall/class 3"), ("Hündin", "recall/class 3")],
)  # fmt: skip
def test_the_key_of_a_class_has_its_name_where_a_key_can(name: str, key: str) -> None:
    assert ClassRate("recall", 3, name).key == key


def test_rates_of_classes_that_do_not_exist_are_named() -> None:
    with pytest.raises(ValueError, match="rate must be one of recall, precision, got 'f1'"):
        ClassRate("f1", 0)
    assert Definitions(class_rates=(ClassRate("recall", 1),)).problems(2) == []
    assert Definitions(class_rates=(ClassRate("recall", 2), ClassRate("precision", -1))).problems(2) == [
        "class_rates: must be of classes in [0, 2), got 2", "class_rates: must be of classes in [0, 2), got -1",
    ]  # fmt: skip


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, math.nan])
def test_fractions_out_of_range_are_named(fraction: float) -> None:
    problems = Definitions(cvar_fraction=fraction, head_fraction=fraction).problems(3)
    assert problems == [
        f"cvar_fraction: must be a number in (0, 1], got {fraction}",
        f"head_fraction: must be a number in (0, 1), got {fraction}",
    ]


def test_the_ends_of_the_fractions() -> None:
    assert Definitions(cvar_fraction=1.0, head_fraction=0.999).problems(3) == []
    assert Definitions(head_fraction=1.0).problems(3) == [
        "head_fraction: must be a number in (0, 1), got 1.0"
    ]


@pytest.mark.parametrize(
    ("definitions", "message"),
    [
        (Definitions(recall_weights=(1.0, math.inf)), "recall_weights: must be finite, >= 0 and not all 0"),
        (Definitions(recall_weights=(1.0, -1.0)), r"must be finite, >= 0 and not all 0, got \[1.0, -1.0\]"),
        (Definitions(recall_weights=()), "recall_weights: must be one per class, 2, got 0"),
        (Definitions(cost_matrix=((0.0, 1.0),)), r"must be 2 rows of 2 numbers, got 1 rows of \[2\]"),
        (Definitions(cost_matrix=((0.0,), (1.0, 2.0))), r"got 2 rows of \[1, 2\]"),
        (Definitions(cost_matrix=((0.0, math.inf), (1.0, 0.0))), "cost_matrix: must be finite numbers"),
    ],
)
def test_what_does_not_fit_two_classes(definitions: Definitions, message: str) -> None:
    (problem,) = definitions.problems(2)
    with pytest.raises(ValueError, match=message):
        raise ValueError(problem)


def test_weights_of_zero_and_costs_below_zero_are_allowed() -> None:
    assert Definitions(recall_weights=(0.0, 1.0), cost_matrix=((-1.0, 2.0), (0.0, -3.0))).problems(2) == []
