"""The path of weight decays: every head is the one that is fitted alone, on features of any shape."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from selmix.baselines import head_path as module
from selmix.baselines.head_losses import (
    equal_shares,
    geometric_mean_loss,
    over_smoothed_targets,
    weighted_cross_entropy,
)
from selmix.baselines.head_path import HeadLoss, head_path

DECAYS = (1e-3, 1e-1, 1e-2)


def problem(classes: int, dim: int, each: int = 12) -> tuple[Tensor, Tensor]:
    """Correlated features of unequal scale, and labels."""
    g = torch.Generator().manual_seed(classes)
    labels = torch.arange(classes).repeat(each)
    features = (
        torch.randn(len(labels), dim, generator=g) + 2.0 * torch.randn(classes, dim, generator=g)[labels]
    )
    return features @ torch.randn(dim, dim, generator=g) * torch.logspace(-2, 2, dim), labels


def gradient(features: Tensor, loss: HeadLoss, weight: Tensor, bias: Tensor, decay: float) -> Tensor:
    """Gradient in W and b of the whole objective over standardised features, shape (K, d + 1)."""
    x = features.double()
    scale = x.std(dim=0, unbiased=False)
    _, residuals = loss(x @ weight.T + bias)
    by_weight = residuals.T @ ((x - x.mean(dim=0)) / scale) + decay * weight * scale
    return torch.cat([by_weight, residuals.sum(dim=0).unsqueeze(1)], dim=1)


@pytest.mark.parametrize(("classes", "dim"), [(2, 1), (3, 6), (12, 30)])
@pytest.mark.parametrize("kind", ["cross_entropy", "geometric_mean"])
def test_every_head_of_the_path_is_where_the_gradient_vanishes(classes: int, dim: int, kind: str) -> None:
    features, labels = problem(classes, dim)
    shares = equal_shares(labels)
    loss = (
        weighted_cross_entropy(labels, shares)
        if kind == "cross_entropy"
        else geometric_mean_loss(labels, classes)
    )
    heads = list(head_path(features, loss, classes, DECAYS, shares))
    assert [head.decay for head in heads] == [1e-1, 1e-2, 1e-3]
    for head in heads:
        # The solver ends where the loss falls by less than 1e-11.
        assert gradient(features, loss, head.weight, head.bias, head.decay).abs().max() < 1e-5


def test_a_head_does_not_depend_on_the_decays_before_it() -> None:
    features, labels = problem(4, 8)
    shares = equal_shares(labels)
    loss = weighted_cross_entropy(labels, shares)
    alone = next(iter(head_path(features, loss, 4, (1e-3,), shares)))
    *_, last = head_path(features, loss, 4, DECAYS, shares)
    x = features.double()
    one, other = (torch.softmax(x @ head.weight.T + head.bias, dim=1) for head in (alone, last))
    assert torch.allclose(one, other, atol=1e-5)


def test_equal_input_gives_equal_heads() -> None:
    features, labels = problem(5, 7)
    shares = equal_shares(labels)
    one, other = (
        list(head_path(features, weighted_cross_entropy(labels, shares), 5, DECAYS, shares)) for _ in range(2)
    )
    for first, second in zip(one, other, strict=True):
        assert torch.equal(first.weight, second.weight)
        assert torch.equal(first.bias, second.bias)


@pytest.mark.parametrize("kind", ["cross_entropy", "soft", "geometric_mean"])
def test_blocks_of_rows_give_the_bits_of_the_whole(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = problem(12, 30)
    shares = equal_shares(labels)
    loss = {
        "cross_entropy": weighted_cross_entropy(labels, shares),
        "soft": weighted_cross_entropy(over_smoothed_targets(labels, 12), shares),
        "geometric_mean": geometric_mean_loss(labels, 12),
    }[kind]
    found = []
    for numbers in (1, 12 * 5, 2**20):  # a row, five rows of 144, all of them
        monkeypatch.setattr(module, "_NUMBERS_OF_A_BLOCK", numbers)
        found.append(list(head_path(features, loss, 12, DECAYS, shares)))
    for heads in zip(*found, strict=True):
        assert all(torch.equal(head.weight, heads[0].weight) for head in heads)
        assert all(torch.equal(head.bias, heads[0].bias) for head in heads)


def test_many_classes_with_two_samples_each() -> None:
    features, labels = problem(1000, 8, each=2)
    (head,) = head_path(
        features, weighted_cross_entropy(labels, equal_shares(labels)), 1000, (0.1,), equal_shares(labels)
    )
    assert torch.isfinite(head.weight).all()
    assert torch.isfinite(head.bias).all()
