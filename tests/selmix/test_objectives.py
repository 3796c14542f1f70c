"""The objectives against their definitions, and a user's own."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selmix.confusion import logit_gradient, smooth_confusion
from selmix.definitions import Definitions
from selmix.metrics import METRICS
from selmix.multipliers import (
    MultiplierSettings,
    WorstCaseState,
    constraint_multipliers,
    worst_case_multipliers,
)
from selmix.objectives import (
    OBJECTIVES,
    PUBLISHED,
    ObjectiveContext,
    bind_objective,
    is_of_groups,
    known_objective,
    metric_of_objective,
    tail_classes,
)
from selmix.schedules import scheduled

MATRIX = smooth_confusion(torch.tensor([[8.0, 2.0, 0.0], [3.0, 15.0, 2.0], [1.0, 4.0, 5.0]]), 1e-12)
RECALLS = [0.8, 0.75, 0.5]


def test_plain_means() -> None:
    assert float(OBJECTIVES["mean_recall"](MATRIX)) == pytest.approx(sum(RECALLS) / 3)
    assert float(OBJECTIVES["g_mean"](MATRIX)) == pytest.approx((0.8 * 0.75 * 0.5) ** (1 / 3))
    assert float(OBJECTIVES["h_mean"](MATRIX)) == pytest.approx(3 / (1 / 0.8 + 1 / 0.75 + 1 / 0.5))


def test_min_recall_is_near_the_minimum_at_a_large_step() -> None:
    sharp = ObjectiveContext(settings=MultiplierSettings(lr=1e4))
    assert float(OBJECTIVES["min_recall"](MATRIX, sharp)) == pytest.approx(0.5)
    flat = ObjectiveContext(settings=MultiplierSettings(lr=0.0))
    assert float(OBJECTIVES["min_recall"](MATRIX, flat)) == pytest.approx(sum(RECALLS) / 3)
    given = ObjectiveContext(multipliers=torch.tensor([0.0, 1.0, 0.0]))
    assert float(OBJECTIVES["min_recall"](MATRIX, given)) == pytest.approx(0.75)


def test_head_and_tail_follow_training_counts() -> None:
    sharp = MultiplierSettings(lr=1e4)
    context = ObjectiveContext(settings=sharp, train_counts=torch.tensor([1, 50, 20]))
    # Class 0 is the tail; the mean of the others' recalls is lower.
    assert float(OBJECTIVES["min_head_tail_recall"](MATRIX, context)) == pytest.approx(0.625)


@pytest.mark.parametrize(
    ("fraction", "tail"), [(0.9, 1), (0.55, 45), (0.5, 50), (0.07, 93), (0.999, 1), (0.291, 70)]
)
def test_the_tail_is_what_any_fraction_leaves(fraction: float, tail: int) -> None:
    """The fewest by training count, K - ceil(fraction K) of them, one at least; decimals as they are written."""
    classes = 10 if fraction == 0.9 else 100
    counts = torch.randperm(classes, generator=torch.Generator().manual_seed(0))
    mask = tail_classes(classes, counts, fraction)
    assert int(mask.sum()) == tail
    assert sorted(counts[mask].tolist()) == list(range(tail))


def test_coverage_term_by_hand() -> None:
    covered = [12 / 40, 21 / 40, 7 / 40]
    floor = 0.95 / 3
    settings = MultiplierSettings()
    held = [
        max(0.0, 100 * (1 - torch.tensor((c - floor) / 0.01, dtype=torch.float64).exp().item()))
        for c in covered
    ]
    expected = (sum(RECALLS) / 3 + sum(m * (c - floor) for m, c in zip(held, covered, strict=True))) / (
        1 + max(held)
    )
    context = ObjectiveContext(settings=settings)
    assert float(OBJECTIVES["mean_recall_min_coverage"](MATRIX, context)) == pytest.approx(expected)
    loose = ObjectiveContext(floor=0.01)
    assert float(OBJECTIVES["mean_recall_min_coverage"](MATRIX, loose)) == pytest.approx(sum(RECALLS) / 3)


def test_multipliers_carry_no_gradient() -> None:
    values = torch.tensor([0.2, 0.9], requires_grad=True)
    assert not worst_case_multipliers(values, MultiplierSettings()).requires_grad
    assert not constraint_multipliers(values, 0.5, MultiplierSettings()).requires_grad


def test_worst_case_state_remembers_by_its_decay() -> None:
    values = torch.tensor([0.2, 0.4, 0.4], dtype=torch.float64)
    settings = MultiplierSettings(lr=5.0, decay=0.5)
    state = WorstCaseState(settings)
    first = state.update(values).clone()
    weights = [
        p**0.5 * torch.tensor(-5.0 * v).exp().item()
        for p, v in zip(first.tolist(), values.tolist(), strict=True)
    ]
    second = state.update(values)
    assert second.tolist() == pytest.approx([w / sum(weights) for w in weights], rel=1e-6)
    assert second[0] > first[0]
    memoryless = WorstCaseState(MultiplierSettings(lr=5.0))
    assert torch.equal(memoryless.update(values), memoryless.update(values))


def test_a_callable_works_where_a_name_does() -> None:
    context = ObjectiveContext(train_counts=torch.tensor([3, 2, 1]))
    named = bind_objective("h_mean", context)
    plain = bind_objective(lambda confusion: OBJECTIVES["h_mean"](confusion), context)
    positional = bind_objective(lambda confusion, given: OBJECTIVES["h_mean"](confusion, given), context)

    def keyword(confusion: torch.Tensor, *, context: ObjectiveContext) -> torch.Tensor:
        return OBJECTIVES["h_mean"](confusion, context)

    def scaled(confusion: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return scale * OBJECTIVES["h_mean"](confusion)

    for objective in (plain, positional, bind_objective(keyword, context), bind_objective(scaled, context)):
        assert torch.equal(logit_gradient(objective, MATRIX), logit_gradient(named, MATRIX))


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match="unknown objective 'min_recal'; there are mean_recall, min_recall"):
        bind_objective("min_recal", ObjectiveContext())


@pytest.mark.parametrize("kind", ["linear", "cosine", "exponential", "step"])
def test_schedules_run_from_start_to_final(kind: str) -> None:
    values = [scheduled(kind, 2.0, 0.5, k / 20) for k in range(21)]
    assert values[0] == 2.0
    assert values[-1] == pytest.approx(0.5)
    assert all(a >= b for a, b in itertools.pairwise(values))
    middle = {"linear": 1.25, "cosine": 1.25, "exponential": 1.0, "step": 2.0 * 0.25 ** (2 / 3)}[kind]
    assert scheduled(kind, 2.0, 0.5, 0.5) == pytest.approx(middle)


def test_constant_schedule_and_refusals() -> None:
    assert scheduled("constant", 2.0, 0.5, 1.0) == 2.0
    with pytest.raises(ValueError, match="schedule must be"):
        scheduled("wavy", 1.0, 1.0, 0.5)
    with pytest.raises(ValueError, match="progress"):
        scheduled("linear", 1.0, 1.0, 1.5)


DEFINED = Definitions(0.4, (1.0, 2.0, 3.0), ((0.0, 1.0, 4.0), (2.0, 0.0, 1.0), (1.0, 3.0, 0.0)))
CELLS = smooth_confusion(
    torch.tensor([[5.0, 1, 0], [3, 1, 2], [2, 6, 1], [0, 4, 1], [0, 2, 7], [1, 0, 6]]), 1e-12
)
SHARP = MultiplierSettings(lr=1e6)


def context_of(name: str) -> tuple[torch.Tensor, ObjectiveContext]:
    """A matrix for an objective, of cells where it is one of groups, and a context with a sharp minimum."""
    context = ObjectiveContext(train_counts=torch.tensor([9, 5, 1]), settings=SHARP, definitions=DEFINED)
    if not OBJECTIVES[name].of_groups:
        return MATRIX, context
    return CELLS, dataclasses.replace(context, labels=torch.tensor([0, 0, 1, 1, 2, 2]), num_groups=2)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_an_objective_is_its_metric_where_nothing_binds(name: str) -> None:
    """At sharp multipliers a minimum is attained, and below every coverage a floor has no part."""
    matrix, context = context_of(name)
    context = dataclasses.replace(context, floor=0.0)
    definition = OBJECTIVES[name].definition
    value = float(definition.of(500 * matrix, context.for_metrics(3)))
    assert float(OBJECTIVES[name](matrix, context)) == pytest.approx(definition.sign * value, abs=1e-9)


@pytest.mark.parametrize("name", [name for name, entry in OBJECTIVES.items() if entry.coverage is None])
@pytest.mark.parametrize("scale", [1000.0, 1e-3])
def test_an_objective_without_a_floor_is_the_same_on_counts_and_on_shares(name: str, scale: float) -> None:
    matrix, context = context_of(name)
    assert float(OBJECTIVES[name](scale * matrix, context)) == pytest.approx(
        float(OBJECTIVES[name](matrix, context)), abs=1e-12
    )


@pytest.mark.parametrize("name", [name for name, entry in OBJECTIVES.items() if entry.worst_of is not None])
@pytest.mark.parametrize("lr", [0.0, 5.0, 50.0])
def test_a_lagrangian_lies_between_the_least_and_the_mean(name: str, lr: float) -> None:
    matrix, context = context_of(name)
    found, flat, sharp = (
        float(OBJECTIVES[name](matrix, dataclasses.replace(context, settings=MultiplierSettings(lr=each))))
        for each in (lr, 0.0, 1e6)
    )
    assert sharp - 1e-12 <= found <= flat + 1e-12
    worst_of = OBJECTIVES[name].worst_of
    assert worst_of is not None
    values, groups = worst_of(matrix, context)
    assert flat == pytest.approx(float((values if groups is None else groups @ values).mean()))


def test_ten_perfect_classes_have_precision_one() -> None:
    assert float(OBJECTIVES["min_precision"](torch.eye(10, dtype=torch.float64) / 10)) == pytest.approx(1.0)


def test_head_and_tail_of_cells_are_those_of_their_classes() -> None:
    """Strata of class 0 (the tail by training count) are two of six: their mean recall, and that of the other four."""
    context = ObjectiveContext(
        labels=torch.tensor([0, 0, 1, 1, 2, 2]), train_counts=torch.tensor([1, 9, 5]), settings=SHARP
    )
    tail, head = (5 / 6 + 3 / 6) / 2, (6 / 9 + 4 / 5 + 7 / 9 + 6 / 7) / 4
    assert float(OBJECTIVES["min_head_tail_recall"](CELLS, context)) == pytest.approx(min(tail, head))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weighted_recall", "weighted_recall needs recall_weights; none are given"),
        ("cost", "cost needs cost_matrix; none are given"),
        ("equalized_odds_gap", "equalized_odds_gap needs data with a group attribute"),
    ],
)
def test_what_an_objective_lacks_is_named(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OBJECTIVES[name](MATRIX)


def test_a_function_named_by_its_module_is_judged_by_itself() -> None:
    assert metric_of_objective("math:prod") == "math:prod"
    assert metric_of_objective("recall_gap") == "recall_gap"  # of METRICS alone
    assert {metric_of_objective(name) for name in OBJECTIVES} <= set(METRICS)


def test_a_function_named_by_its_module_is_imported() -> None:
    context = ObjectiveContext()
    assert torch.equal(bind_objective("selmix.confusion:coverage", context)(MATRIX), MATRIX.sum(dim=0))
    with pytest.raises(ValueError, match="torch has no function 'no_such_name'"):
        bind_objective("torch:no_such_name", context)


def test_what_is_known_of_an_objective() -> None:
    assert known_objective("g_mean") is known_objective(OBJECTIVES["g_mean"]) is OBJECTIVES["g_mean"]
    assert known_objective("mine:own") is known_objective(torch.trace) is None
    assert [name for name in OBJECTIVES if is_of_groups(name)] == [
        "worst_group_recall", "equal_opportunity_gap", "equalized_odds_gap", "one_vs_rest_odds_gap",
        "demographic_parity_gap",
    ]  # fmt: skip
    assert not is_of_groups(torch.trace)
    assert len(PUBLISHED) == 9


@pytest.mark.parametrize("progress", [-1e-9, 1.0 + 1e-9, float("nan")])
def test_progress_outside_its_range_is_refused(progress: float) -> None:
    with pytest.raises(ValueError, match=r"progress must lie in \[0, 1\]"):
        scheduled("cosine", 1.0, 0.0, progress)


@given(st.floats(0.1, 5), st.floats(0.1, 5), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_schedules_are_monotone_between_their_ends(
    start: float, final: float, one: float, other: float
) -> None:
    for kind in ("linear", "cosine", "exponential", "step"):
        early, late = (scheduled(kind, start, final, at) for at in sorted((one, other)))
        way = 1.0 if final >= start else -1.0
        assert way * early <= way * late + 1e-9
        assert min(start, final) - 1e-9 <= early <= max(start, final) + 1e-9


def test_a_step_schedule_has_four_equal_stages() -> None:
    values = [scheduled("step", 8.0, 1.0, k / 100) for k in range(100)]
    assert [round(value, 9) for value in values] == [8.0] * 25 + [4.0] * 25 + [2.0] * 25 + [1.0] * 25
