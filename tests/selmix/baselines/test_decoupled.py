"""Classifiers on a frozen backbone: each is the minimum, or the formula, that its paper defines."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selmix.baselines.decoupled import (
    TAUS,
    label_aware_targets,
    learned_scales,
    smoothed_head,
    tau_normalised,
)


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


def test_a_large_decay_leaves_the_given_directions() -> None:
    features, labels, base = problem(3)
    weight, _ = smoothed_head(features, labels, base, torch.tensor([300, 50, 5]), 1e4)
    cosines = torch.nn.functional.cosine_similarity(weight, base)
    assert torch.allclose(cosines.abs(), torch.ones(3, dtype=torch.float64), atol=1e-4)
