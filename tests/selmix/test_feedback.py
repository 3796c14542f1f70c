"""Estimates on feedback: counts and prototypes by a loop, their average over rounds, and the multipliers."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from selmix.config import FinetuneConfig
from selmix.confusion import logit_gradient, recalls, smooth_confusion, smooth_rows
from selmix.definitions import Definitions
from selmix.feedback import FeedbackMemory, estimate
from selmix.model import ClassifierView
from selmix.models import ModelConfig
from selmix.multipliers import BoundState, MultiplierSettings, worst_case_multipliers
from selmix.objectives import ObjectiveContext, bind_objective
from selmix.round import NonFinite
from selmix.statistics.selection import Constraint, SelectionRule

ROUNDS = [torch.tensor(c) for c in ([[6, 2], [1, 3]], [[8, 0], [2, 2]], [[1, 7], [0, 4]])]
SETTINGS = MultiplierSettings(lr=4.0, decay=0.5)


def view() -> ClassifierView:
    return ClassifierView(ModelConfig("linear_head").build((4,), 3, torch.Generator().manual_seed(0)))


def test_counts_and_prototypes_by_a_loop() -> None:
    """Strata are cells: six of them, of three predicted classes."""
    g = torch.Generator().manual_seed(1)
    inputs, strata = torch.randn(40, 4, generator=g), torch.arange(40) % 6
    counts, prototypes = estimate(view(), inputs, strata, 6)
    predicted = view().logits(inputs).argmax(dim=1)
    for s in range(6):
        assert counts[s].tolist() == [int((predicted[strata == s] == k).sum()) for k in range(3)]
        assert torch.allclose(prototypes[s], inputs[strata == s].double().mean(dim=0), atol=1e-6)
    assert prototypes.dtype == torch.float64


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite_is_named(value: float) -> None:
    inputs = torch.zeros(3, 4)
    inputs[1, 0] = value
    with pytest.raises(NonFinite, match="logits"):
        estimate(view(), inputs, torch.arange(3), 3)


@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.parametrize("by_row", [True, False])
def test_counts_are_averaged_over_the_rounds_and_then_smoothed(weight: float, by_row: bool) -> None:
    how = {"row_smoothing": 0.25} if by_row else {"confusion_smoothing": 0.25}
    config = FinetuneConfig(confusion_average=weight, **how)  # type: ignore[arg-type]
    memory = FeedbackMemory("mean_recall", ObjectiveContext(), config)
    expected = ROUNDS[0].double()
    for k, counts in enumerate(ROUNDS):
        expected = counts.double() if k == 0 else weight * expected + (1 - weight) * counts.double()
        confusion, context = memory.update(counts)
        assert torch.allclose(confusion, (smooth_rows if by_row else smooth_confusion)(expected, 0.25))
        assert context.multipliers is None


def test_multipliers_of_a_minimum_come_from_the_counts_as_they_are_and_survive_a_checkpoint() -> None:
    context, config = ObjectiveContext(settings=SETTINGS), FinetuneConfig(confusion_average=0.0)
    memory, resumed = (FeedbackMemory("min_recall", context, config) for _ in range(2))
    previous = None
    for k, counts in enumerate(ROUNDS):
        confusion, bound = memory.update(counts)
        previous = worst_case_multipliers(recalls(counts.double()), SETTINGS, previous)
        assert bound.multipliers is not None
        assert torch.allclose(bound.multipliers, previous)
        if k == 1:
            resumed.load_state_dict(memory.state_dict())
    again, bound_again = resumed.update(ROUNDS[2])
    assert torch.equal(again, confusion)
    assert torch.equal(bound_again.multipliers, bound.multipliers)  # type: ignore[arg-type]


def test_counts_per_cell_are_the_earlier_way_as_a_whole() -> None:
    memory = FeedbackMemory(
        "min_recall", ObjectiveContext(settings=SETTINGS), FinetuneConfig(confusion_smoothing=0.5)
    )
    confusion, bound = memory.update(ROUNDS[0])
    assert torch.equal(confusion, smooth_confusion(ROUNDS[0]))
    assert torch.equal(bound.multipliers, worst_case_multipliers(recalls(confusion), SETTINGS))  # type: ignore[arg-type]


def test_the_multiplier_of_a_group_is_divided_among_its_classes() -> None:
    context = ObjectiveContext(train_counts=torch.tensor([9, 5, 1]), settings=SETTINGS)
    context = dataclasses.replace(
        context, definitions=dataclasses.replace(context.definitions, head_fraction=0.6)
    )
    memory = FeedbackMemory("min_head_tail_recall", context, FinetuneConfig())
    counts = torch.tensor([[5, 1, 0], [2, 4, 0], [3, 3, 2]])
    _, bound = memory.update(counts)
    recall = recalls(counts.double())
    head, tail = worst_case_multipliers(torch.stack([recall[:2].mean(), recall[2]]), SETTINGS).tolist()
    assert bound.multipliers is not None
    assert bound.multipliers.tolist() == pytest.approx([head / 2, head / 2, tail])


def test_a_class_that_is_never_predicted_has_its_whole_coverage_multiplier() -> None:
    """Half a count in each of 100 cells made its coverage .98 / K, above the floor of .95 / K: it counted nothing."""
    counts = 20 * torch.eye(100, dtype=torch.int64)
    counts[99] = counts[99].roll(1)
    _, bound = FeedbackMemory("mean_recall_min_coverage", ObjectiveContext(), FinetuneConfig()).update(counts)
    assert bound.coverage_multipliers is not None
    assert float(bound.coverage_multipliers[99]) == pytest.approx(100 * (1 - math.exp(-0.95)))
    assert float(bound.coverage_multipliers[:99].max()) == 0.0
    by_group = FeedbackMemory("h_mean_min_head_tail_coverage", ObjectiveContext(), FinetuneConfig())
    found = by_group.update(counts)[1].coverage_multipliers
    # The mean coverage of the ten classes of the tail, .009, is below .0095.
    assert found is not None
    assert found.tolist() == pytest.approx([0.0] * 90 + [10 * (1 - math.exp(-0.05))] * 10)


def test_the_worst_set_of_cvar_is_that_of_the_counts_as_they_are() -> None:
    """Class 0 has 1 of 2 right, class 1 52 of 100: smoothed, class 0 has the higher recall."""
    counts = torch.zeros(10, 10)
    counts[torch.arange(10), torch.arange(10)] = 100.0
    counts[0, :2], counts[1, :2] = torch.tensor([1.0, 1.0]), torch.tensor([48.0, 52.0])
    context = ObjectiveContext(definitions=Definitions(cvar_fraction=0.1))
    smoothed, bound = FeedbackMemory("cvar_recall", context, FinetuneConfig()).update(counts)
    assert recalls(counts).argmin() == 0
    assert recalls(smoothed).argmin() == 1
    assert bound.multipliers is not None
    assert bound.multipliers.tolist() == [1.0] + [0.0] * 9
    psi = bind_objective("cvar_recall", bound)
    assert float(psi(smoothed)) == pytest.approx(float(recalls(smoothed)[0]))
    assert bool((logit_gradient(psi, smoothed)[1:] == 0).all())


def test_slacks_of_bounds_come_from_the_counts_as_they_are_and_their_multipliers_have_a_memory() -> None:
    bounds = (Constraint("min_recall", at_least=0.9), Constraint("recall", at_most=0.2, label=1))
    rule = SelectionRule("mean_recall", constraints=bounds)
    context = ObjectiveContext(definitions=rule.definitions)
    config = FinetuneConfig(confusion_average=0.0)
    memory, resumed = (FeedbackMemory("mean_recall", context, config, bounds) for _ in range(2))
    by_hand = BoundState(2)
    for k, counts in enumerate(ROUNDS):
        recall = recalls(counts.double())
        expected = by_hand.update([recall - 0.9, 0.2 - recall[1:]])
        held = memory.update(counts)[1].bound_multipliers
        assert held is not None
        for ours, theirs in zip(held, expected, strict=True):
            assert torch.allclose(ours, theirs)
        assert list(memory.bounds) == ["min_recall", "recall/class 1"]
        assert list(memory.bounds.values()) == pytest.approx([float(each.sum()) for each in expected])
        if k == 1:
            resumed.load_state_dict(memory.state_dict())
    again = resumed.update(ROUNDS[2])[1].bound_multipliers
    assert again is not None
    assert all(torch.equal(a, b) for a, b in zip(again, held or (), strict=True))


def test_a_checkpoint_without_multipliers_of_bounds_leaves_them_at_their_start() -> None:
    bounds = (Constraint("min_recall", at_least=0.9),)
    memory = FeedbackMemory("mean_recall", ObjectiveContext(), FinetuneConfig(), bounds)
    memory.load_state_dict({"counts": ROUNDS[0].double(), "worst_case": {"multipliers": None}})
    assert memory.bounds == {"min_recall": 1.0}


def test_an_objective_of_classes_on_cells_has_multipliers_of_classes() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    context = ObjectiveContext(labels=labels, num_groups=2, settings=SETTINGS)
    cells = torch.tensor([[5, 1], [2, 4], [3, 3], [0, 6]])
    found = {
        name: FeedbackMemory(name, context, FinetuneConfig()).update(cells)[1].multipliers
        for name in ("min_recall", "worst_group_recall")
    }
    assert {name: len(value) for name, value in found.items() if value is not None} == {
        "min_recall": 2, "worst_group_recall": 4,
    }  # fmt: skip
