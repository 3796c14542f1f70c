"""Losses of heads: the formulas by a loop, their gradients by autograd, and the minima that they lead to."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from selmix.baselines.head_losses import (
    equal_shares,
    geometric_mean_loss,
    over_smoothed_targets,
    weighted_cross_entropy,
)
from selmix.baselines.head_path import HeadLoss, head_path

LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])


def logits(seed: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(8, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def geometric_mean_by_a_loop(values: Tensor, labels: Tensor) -> Tensor:
    """Minus the mean over the classes of log(mean of the true class's softmax probability), for autograd."""
    probabilities = torch.softmax(values, dim=1)
    means = [probabilities[labels == k, k].mean() for k in labels.unique().tolist()]
    return -torch.stack(means).log().mean()


def check_gradient(loss: HeadLoss, expected: Tensor, at: Tensor) -> None:
    """Compare value and closed-form gradient with those of an expression of ``at``."""
    (gradient,) = torch.autograd.grad(expected, at)
    value, residuals = loss(at.detach().clone())
    assert float(value) == pytest.approx(float(expected.detach()), rel=1e-12)
    assert torch.allclose(residuals, gradient, atol=1e-14)


@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_is_that_of_torch(soft: bool) -> None:
    at, weights = logits(0).requires_grad_(), equal_shares(LABELS)
    targets = over_smoothed_targets(LABELS, 3, 0.7) if soft else LABELS
    expected = (weights * F.cross_entropy(at, targets, reduction="none")).sum()
    check_gradient(weighted_cross_entropy(targets, weights), expected, at)


def test_the_geometric_mean_is_that_of_a_loop() -> None:
    at = logits(1).requires_grad_()
    check_gradient(geometric_mean_loss(LABELS, 3), geometric_mean_by_a_loop(at, LABELS), at)


def test_the_geometric_mean_by_hand() -> None:
    """Probabilities .8 and .4 of class 0, .5 of class 1: -(log .6 + log .5) / 2; class 2 has no sample."""
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.4, 0.3, 0.3], [0.25, 0.5, 0.25]], dtype=torch.float64)
    value, _ = geometric_mean_loss(torch.tensor([0, 0, 1]), 3)(probabilities.log())
    assert float(value) == pytest.approx(-(math.log(0.6) + math.log(0.5)) / 2)


def test_classes_that_are_all_wrong_have_a_finite_loss_and_pull_hardest() -> None:
    """At a logit 1,000 below the rest every probability of class 2 is 0 in float64."""
    far = torch.zeros(8, 3, dtype=torch.float64)
    far[:, 2] = -1000.0
    value, residuals = geometric_mean_loss(LABELS, 3)(far.clone())
    assert float(value) == pytest.approx((2 * math.log(2) + 1000 + math.log(2)) / 3, abs=1e-9)
    assert torch.allclose(residuals[6:, 2], torch.full((2,), -1 / 6, dtype=torch.float64))


def test_counts_in_the_softmax_only_move_the_bias() -> None:
    """The paper's loss, of logits + log(counts), has the head of the plain one with bias - log(counts)."""
    labels = torch.arange(3).repeat_interleave(torch.tensor([30, 12, 6]))
    features = torch.randn(48, 4, generator=torch.Generator().manual_seed(3)) + torch.eye(3, 4)[labels]
    shift = torch.bincount(labels).double().log()
    plain = geometric_mean_loss(labels, 3)
    (one,) = head_path(features, plain, 3, (0.01,), equal_shares(labels))
    (other,) = head_path(features, lambda at: plain(at + shift), 3, (0.01,), equal_shares(labels))
    assert torch.allclose(one.weight, other.weight, atol=1e-5)
    moved = one.bias - other.bias - shift
    assert torch.allclose(moved, moved.mean().expand(3), atol=1e-5)


def test_the_geometric_mean_lifts_the_least_class() -> None:
    """A narrow class inside a wide one: cross-entropy gives it up sooner than the geometric mean of recalls."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat_interleave(200)
    features = torch.randn(400, 2, generator=g) * torch.where(labels == 0, 3.0, 0.5).unsqueeze(1)
    (head,) = head_path(features, geometric_mean_loss(labels, 2), 2, (1e-4,), equal_shares(labels))
    means = torch.softmax(features.double() @ head.weight.T + head.bias, dim=1)
    found = -sum(math.log(float(means[labels == k, k].mean())) for k in (0, 1)) / 2
    assert found <= math.log(2) + 1e-9


@pytest.mark.parametrize(("classes", "smoothing", "true"), [(2, 0.98, 0.51), (4, 0.9, 0.325), (4, 0.0, 1.0)])
def test_over_smoothed_targets_by_hand(classes: int, smoothing: float, true: float) -> None:
    labels = torch.tensor([1, 0])
    found = over_smoothed_targets(labels, classes, smoothing)
    for label, row in zip(labels.tolist(), found.tolist(), strict=True):
        rest = (1.0 - true) / (classes - 1)
        assert row == pytest.approx([true if k == label else rest for k in range(classes)])


def test_over_smoothed_targets_are_those_of_torch() -> None:
    at = logits(2)
    ours = F.cross_entropy(at, over_smoothed_targets(LABELS, 3, 0.98))
    assert float(ours) == pytest.approx(float(F.cross_entropy(at, LABELS, label_smoothing=0.98)))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_a_smoothing_out_of_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"smoothing must lie in \[0, 1\)"):
        over_smoothed_targets(LABELS, 3, smoothing)


def test_shares_by_hand() -> None:
    assert equal_shares(torch.tensor([0, 0, 5])).tolist() == [0.25, 0.25, 0.5]
