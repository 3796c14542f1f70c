"""Estimates on feedback: counts and prototypes by a loop, their average over rounds, and the multipliers."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from selmix.config import FinetuneConfig
from selmix.confusion import recalls, smooth_confusion
from selmix.feedback import FeedbackMemory, estimate
from selmix.model import ClassifierView
from selmix.models import ModelConfig
from selmix.multipliers import MultiplierSettings, worst_case_multipliers
from selmix.objectives import ObjectiveContext
from selmix.round import NonFinite

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
def test_counts_are_averaged_over_the_rounds_and_then_smoothed(weight: float) -> None:
    config = FinetuneConfig(confusion_average=weight, confusion_smoothing=0.25)
    memory = FeedbackMemory("mean_recall", ObjectiveContext(), config)
    expected = ROUNDS[0].double()
    for k, counts in enumerate(ROUNDS):
        expected = counts.double() if k == 0 else weight * expected + (1 - weight) * counts.double()
        confusion, context = memory.update(counts)
        assert torch.allclose(confusion, smooth_confusion(expected, 0.25))
        assert context.multipliers is None


def test_multipliers_of_a_minimum_are_carried_over_and_survive_a_checkpoint() -> None:
    context, config = ObjectiveContext(settings=SETTINGS), FinetuneConfig(confusion_average=0.0)
    memory, resumed = (FeedbackMemory("min_recall", context, config) for _ in range(2))
    previous = None
    for k, counts in enumerate(ROUNDS):
        confusion, bound = memory.update(counts)
        previous = worst_case_multipliers(recalls(confusion), SETTINGS, previous)
        assert bound.multipliers is not None
        assert torch.allclose(bound.multipliers, previous)
        if k == 1:
            resumed.load_state_dict(memory.state_dict())
    again, bound_again = resumed.update(ROUNDS[2])
    assert torch.equal(again, confusion)
    assert torch.equal(bound_again.multipliers, bound.multipliers)  # type: ignore[arg-type]


def test_the_multiplier_of_a_group_is_divided_among_its_classes() -> None:
    context = ObjectiveContext(train_counts=torch.tensor([9, 5, 1]), settings=SETTINGS)
    context = dataclasses.replace(
        context, definitions=dataclasses.replace(context.definitions, head_fraction=0.6)
    )
    memory = FeedbackMemory("min_head_tail_recall", context, FinetuneConfig())
    confusion, bound = memory.update(torch.tensor([[5, 1, 0], [2, 4, 0], [3, 3, 2]]))
    recall = recalls(confusion)
    head, tail = worst_case_multipliers(torch.stack([recall[:2].mean(), recall[2]]), SETTINGS).tolist()
    assert bound.multipliers is not None
    assert bound.multipliers.tolist() == pytest.approx([head / 2, head / 2, tail])


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
