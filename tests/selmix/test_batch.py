"""One batch: its loss sample by sample, its parts, and the draws that make it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from selmix.augment import weak
from selmix.batch import Batch, pair_batch, weighted_batch
from selmix.config import FinetuneConfig
from selmix.data.splits import Split
from selmix.mixup import draw_coefficients
from selmix.model import ClassifierView
from selmix.models import ModelConfig
from selmix.sampler import PairSampler


def view() -> ClassifierView:
    model = ModelConfig("linear_head").build((5,), 3, torch.Generator().manual_seed(0))
    return ClassifierView(model.requires_grad_(False))


def whole(mixed: bool, weighted: bool) -> Batch:
    g = torch.Generator().manual_seed(1)
    inputs, others = (torch.randn(6, 5, generator=g) for _ in range(2))
    extra: dict[str, Tensor] = {"weights": torch.rand(6, generator=g).double()} if weighted else {}
    if mixed:
        extra |= {"others": others, "coefficients": torch.rand(6, generator=g)}
    return Batch(torch.arange(6) % 3, inputs, **extra)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_the_loss_is_the_mean_over_samples_under_the_first_label(mixed: bool, weighted: bool) -> None:
    batch, head = whole(mixed, weighted), view().head
    total = 0.0
    for k in range(6):
        x = batch.inputs[k]
        if batch.others is not None and batch.coefficients is not None:
            x = batch.coefficients[k] * x + (1 - batch.coefficients[k]) * batch.others[k]
        loss = -torch.log_softmax(head.weight @ x + head.bias, dim=0)[batch.labels[k]]
        total += float(loss) * (1.0 if batch.weights is None else float(batch.weights[k])) / 6
    for layer in ("input", "features"):  # of a linear model they are the same
        assert float(batch.loss(view(), layer)) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_parts_follow_one_another_and_their_losses_average(count: int, mixed: bool, weighted: bool) -> None:
    batch = whole(mixed, weighted)
    parts = batch.parts(count)
    assert torch.equal(torch.cat([part.inputs for part in parts]), batch.inputs)
    assert [len(part.labels) for part in parts] == [6 // count] * count
    for part in parts:
        assert [value is None for value in vars(part).values()] == [
            value is None for value in vars(batch).values()
        ]
    mean = sum(float(part.loss(view(), "features")) for part in parts) / count
    assert mean == pytest.approx(float(batch.loss(view(), "features")), rel=1e-5)


def pool() -> tuple[Split, PairSampler]:
    split = Split(torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(2)), torch.arange(9) % 3)
    sampler = PairSampler(split.labels, 3)
    sampler.set_policy(torch.full((3, 3), 1 / 9, dtype=torch.float64))
    return split, sampler


@pytest.mark.parametrize("augment", ["none", "weak"])
def test_a_batch_of_pairs_is_drawn_then_augmented_then_mixed(augment: str) -> None:
    """The order of the draws, with a twin of the generator."""
    split, sampler = pool()
    config = FinetuneConfig(batch_size=8, coefficient_min=0.4, augment=augment)
    batch, twin = (
        pair_batch(split, split, sampler, config, torch.Generator().manual_seed(3)),
        torch.Generator(),
    )
    twin.manual_seed(3)
    first, second = sampler.draw(8, twin)
    inputs, others = split.batch(first), split.batch(second)
    if augment == "weak":
        inputs, others = weak(inputs, twin), weak(others, twin)
    assert torch.equal(batch.labels, split.labels[first])
    assert torch.equal(batch.inputs, inputs)
    assert batch.others is not None
    assert batch.coefficients is not None
    assert torch.equal(batch.others, others)
    assert torch.equal(batch.coefficients, draw_coefficients(8, 0.4, twin))
    assert 0.4 <= float(batch.coefficients.min()) <= float(batch.coefficients.max()) <= 1.0


def test_a_batch_that_mixes_nothing_has_no_partners() -> None:
    split, sampler = pool()
    config = FinetuneConfig(batch_size=8, coefficient_min=1.0)
    batch = pair_batch(split, split, sampler, config, torch.Generator().manual_seed(3))
    assert batch.others is batch.coefficients is batch.weights is None


def test_weights_of_a_batch_are_those_of_its_samples() -> None:
    split, _ = pool()
    weights = torch.arange(9.0)
    batch = weighted_batch(split, weights, FinetuneConfig(batch_size=20), torch.Generator().manual_seed(4))
    assert batch.weights is not None
    for label, image, weight in zip(batch.labels, batch.inputs, batch.weights.long(), strict=True):
        assert torch.equal(image, split.whole()[weight])
        assert label == split.labels[weight]
    assert len(batch.weights.unique()) > 4
