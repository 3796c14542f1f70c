"""SGD of a run: head and backbone apart, and a scale of 0 that freezes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from selmix.config import FinetuneConfig
from selmix.model import ClassifierView
from selmix.models import ModelConfig
from selmix.optimizer import sgd


def view() -> ClassifierView:
    return ClassifierView(ModelConfig("small_cnn").build((1, 8, 8), 3))


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_every_parameter_lies_in_one_group_the_head_in_the_first(scale: float) -> None:
    made = view()
    optimizer = sgd(made, FinetuneConfig(lr=0.2, backbone_lr_scale=scale, momentum=0.5, weight_decay=0.01))
    head, backbone = optimizer.param_groups
    assert [id(p) for p in head["params"]] == [id(p) for p in made.head.parameters()]
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in made.model.parameters())
    assert (head["lr_scale"], backbone["lr_scale"]) == (1.0, scale)
    for group in (head, backbone):
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.2, 0.5, 0.01)


def test_a_scale_of_zero_leaves_the_backbone_without_gradients() -> None:
    made = view()
    optimizer = sgd(made, FinetuneConfig(backbone_lr_scale=0.0))
    assert len(optimizer.param_groups) == 1
    made.logits(torch.rand(2, 1, 8, 8)).sum().backward()  # type: ignore[no-untyped-call]
    with_gradient = {name for name, p in made.model.named_parameters() if p.grad is not None}
    assert with_gradient == {"head.weight", "head.bias"}


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_a_model_that_is_its_own_head_has_one_group(scale: float) -> None:
    optimizer = sgd(ClassifierView(nn.Linear(3, 2)), FinetuneConfig(backbone_lr_scale=scale))
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]


def test_the_named_classifier_is_the_head() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))
    head, backbone = sgd(ClassifierView(model, "0"), FinetuneConfig()).param_groups
    assert head["params"][0] is model[0].weight
    assert backbone["params"][0] is model[1].weight
