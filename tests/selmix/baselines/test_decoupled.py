"""Classifiers on a frozen backbone: each is the minimum, or the formula, that its paper defines."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selmix.baselines.decoupled import (
    TAUS,
    label_aware_targets,
    learned_scales,
    scaled_loss,
    smoothed_head,
    tau_normalised,
)
from selmix.baselines.head_losses import equal_shares, weighted_cross_entropy
from selmix.baselines.head_path import penalised


def problem(seed: int, sizes: tuple[int, ...] = (30, 12, 6)) -> tuple[Tensor, Tensor, Tensor]:
    """Features (n, 4) of overlapping classes, labels, and weights of a classifier, all but the labels float64."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    features = (
        torch.randn(len(labels), 4, generator=g, dtype=torch.float64) + torch.eye(len(sizes), 4)[labels]
    )
    return features, labels, torch.randn(len(sizes), 4, generator=g, dtype=torch.float64)


def balanced_residuals(logits: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the class-balanced mean cross-entropy in the logits, sample by sample in a loop."""
    sizes = [labels.tolist().count(k) for k in range(logits.shape[1])]
    rows = []
    for logit, target, k in zip(logits, targets, labels.tolist(), strict=True):
        share = (logit - logit.max()).exp()
        rows.append((share / share.sum() - target) / (sizes[k] * len(sizes)))
    return torch.stack(rows)


@given(
    st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=2, max_size=4),
    st.sampled_from(TAUS),
)
@settings(max_examples=30, deadline=None)
def test_every_row_is_divided_by_its_own_norm_to_the_power_tau(rows: list[list[float]], tau: float) -> None:
    found = tau_normalised(torch.tensor(rows, dtype=torch.float64), tau)
    for row, got in zip(rows, found.tolist(), strict=True):
        norm = math.sqrt(sum(x * x for x in row))
        if norm > 1e-6:
            assert got == pytest.approx([x / norm**tau for x in row], rel=1e-9, abs=1e-12)


def test_a_class_of_zero_weights_keeps_them() -> None:
    found = tau_normalised(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), 2.0)
    assert found.tolist() == [[0.0, 0.0], pytest.approx([3 / 25, 4 / 25])]


@pytest.mark.parametrize("seed", range(3))
def test_scales_are_where_the_gradient_vanishes(seed: int) -> None:
    """The loss is convex in the scales: a point without gradient is the minimum."""
    features, labels, weight = problem(seed)
    logits = features @ weight.T
    scales = learned_scales(logits, labels)
    residuals = balanced_residuals(logits * scales, torch.eye(3, dtype=torch.float64)[labels], labels)
    # L-BFGS ends where the loss falls by less than 1e-9, which leaves a gradient of about 1e-5.
    assert (residuals * logits).sum(dim=0).abs().max() < 1e-4


def test_scales_are_those_of_plain_gradient_descent() -> None:
    features, labels, weight = problem(5)
    logits, scales = features @ weight.T, torch.ones(3, dtype=torch.float64)
    targets = torch.eye(3, dtype=torch.float64)[labels]
    sizes = torch.bincount(labels)[labels].unsqueeze(1) * 3
    for _ in range(4000):
        scales = scales - 0.5 * (((logits * scales).softmax(dim=1) - targets) / sizes * logits).sum(dim=0)
    assert torch.allclose(learned_scales(logits, labels), scales, atol=1e-3)


def test_scales_see_classes_and_not_their_sizes() -> None:
    features, labels, weight = problem(1)
    logits = features @ weight.T
    more = torch.cat([logits, logits[labels == 0].repeat(4, 1)])
    again = learned_scales(more, torch.cat([labels, torch.zeros(4 * 30, dtype=torch.int64)]))
    assert torch.allclose(again, learned_scales(logits, labels), atol=1e-3)


@pytest.mark.parametrize("counts", [[500, 80, 10], [10, 500, 80], [7, 7, 7], [2, 1, 1], [1, 2, 3]])
def test_targets_by_a_loop(counts: list[int]) -> None:
    labels = [0, 1, 2, 1]
    found = label_aware_targets(torch.tensor(labels), torch.tensor(counts))
    least, most = min(counts), max(counts)
    for k, row in zip(labels, found.tolist(), strict=True):
        place = (counts[k] - least) / (most - least) if most > least else 0.0
        eps = 0.3 * math.sin(math.pi / 2 * place)
        assert row == pytest.approx([1 - eps if j == k else eps / 2 for j in range(3)], abs=1e-12)


@pytest.mark.parametrize("decay", [1e-2, 1e-1])
@pytest.mark.parametrize("seed", range(2))
def test_stage_two_meets_the_conditions_of_its_minimum(seed: int, decay: float) -> None:
    """At W = s w + change: no gradient in b and s, and decay x change is the negative gradient in W."""
    features, labels, base = problem(seed)
    counts = torch.tensor([300, 50, 5])
    weight, bias = smoothed_head(features, labels, base, counts, decay)
    residuals = balanced_residuals(features @ weight.T + bias, label_aware_targets(labels, counts), labels)
    gradient = residuals.T @ features
    assert residuals.sum(dim=0).abs().max() < 1e-4
    assert (gradient * base).sum(dim=1).abs().max() < 1e-4
    scaled = weight + gradient / decay  # what is left must be a multiple of the given weights, class by class
    along = (scaled * base).sum(dim=1, keepdim=True) / base.square().sum(dim=1, keepdim=True)
    assert (scaled - along * base).abs().max() < 1e-4 / decay


def by_autograd(
    features: Tensor, labels: Tensor, base: Tensor, counts: Tensor, decay: float
) -> tuple[Tensor, Tensor]:
    """Scales, correction and bias as the paper has them, each a parameter of its own; W and b."""
    targets, shares = label_aware_targets(labels, counts), equal_shares(labels)
    scales = torch.ones(len(base), 1, dtype=torch.float64, requires_grad=True)
    change = torch.zeros_like(base, requires_grad=True)
    bias = torch.zeros(len(base), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [scales, change, bias], max_iter=2000, tolerance_grad=1e-9, tolerance_change=1e-13,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = features @ (scales * base + change).T + bias
        loss = (shares * F.cross_entropy(logits, targets, reduction="none")).sum()
        loss = loss + 0.5 * decay * change.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (scales * base + change).detach(), (bias - bias.mean()).detach()


@pytest.mark.parametrize("decay", [1e-3, 1e-1])
@pytest.mark.parametrize("seed", range(2))
def test_stage_two_is_that_of_autograd(seed: int, decay: float) -> None:
    features, labels, base = problem(seed)
    counts = torch.tensor([300, 50, 5])
    weight, bias = smoothed_head(features, labels, base, counts, decay)
    expected, offset = by_autograd(features, labels, base, counts, decay)
    assert torch.allclose(weight, expected, atol=1e-4)
    assert torch.allclose(bias, offset, atol=1e-4)


@pytest.mark.parametrize("with_free", [False, True])
def test_gradients_of_a_penalised_head_are_those_of_autograd(with_free: bool) -> None:
    features, labels, base = problem(1)
    base[1] = 0.0  # a class without weights: all of it decays
    shares, targets = equal_shares(labels), label_aware_targets(labels, torch.tensor([300, 50, 5]))
    g = torch.Generator().manual_seed(2)
    weight = torch.randn(3, 4, generator=g, dtype=torch.float64).requires_grad_()
    bias = torch.randn(3, generator=g, dtype=torch.float64).requires_grad_()
    free = base / base.norm(dim=1, keepdim=True).clamp_min(1e-12) if with_free else None
    rest = weight
    if free is not None:
        projections = [torch.eye(4, dtype=torch.float64) - torch.outer(row, row) for row in free]
        rest = torch.stack([p @ row for p, row in zip(projections, weight, strict=True)])
    losses = F.cross_entropy(features @ weight.T + bias, targets, reduction="none")
    expected = (shares * losses).sum() + 0.5 * 0.03 * rest.square().sum()
    by_weight, by_bias = torch.autograd.grad(expected, (weight, bias))
    found = penalised(
        features, weighted_cross_entropy(targets, shares), weight.detach(), bias.detach(), 0.03, free
    )
    for got, truth in zip(found, (expected.detach(), by_weight, by_bias), strict=True):
        assert torch.allclose(got, truth, rtol=0.0, atol=1e-10)


def test_gradients_in_the_scales_are_those_of_autograd() -> None:
    features, labels, weight = problem(2)
    logits, shares = features @ weight.T, equal_shares(labels)
    scales = torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64, requires_grad=True)
    expected = (shares * F.cross_entropy(logits * scales, labels, reduction="none")).sum()
    (gradient,) = torch.autograd.grad(expected, scales)
    value, found = scaled_loss(logits, weighted_cross_entropy(labels, shares), scales.detach())
    assert float(value) == pytest.approx(float(expected.detach()), abs=1e-10)
    assert torch.allclose(found, gradient, rtol=0.0, atol=1e-10)


def test_a_large_decay_leaves_the_given_directions() -> None:
    features, labels, base = problem(3)
    weight, _ = smoothed_head(features, labels, base, torch.tensor([300, 50, 5]), 1e4)
    cosines = torch.nn.functional.cosine_similarity(weight, base)
    assert torch.allclose(cosines.abs(), torch.ones(3, dtype=torch.float64), atol=1e-4)
