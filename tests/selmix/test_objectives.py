"""The objectives against their definitions, and a user's own."""

from __future__ import annotations

import itertools

import pytest
import torch

from selmix.confusion import logit_gradient, smooth_confusion
from selmix.multipliers import (
    MultiplierSettings,
    WorstCaseState,
    constraint_multipliers,
    worst_case_multipliers,
)
from selmix.objectives import OBJECTIVES, ObjectiveContext, bind_objective, tail_classes
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
