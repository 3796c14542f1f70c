"""The earlier version's resampled limits of macro F1, all draws at once, against the loop over the draws."""

from __future__ import annotations

import pytest
import torch

from benchmarks.power_study import CLASSES, Case, draw
from benchmarks.resampled_f1 import resampled_limits, sample_weights, sizes, weighted_f1
from selmix.metric_functions import macro_f1
from selmix.metrics import MetricContext

CASE = Case("macro_f1", "all", 0.8, 0.6, 6)


def test_all_draws_at_once_are_those_of_the_loop() -> None:
    context = MetricContext(torch.full((CLASSES,), 5))
    a, b = draw(CASE, 0.8, 0.6, torch.Generator().manual_seed(1))
    weights, found = sample_weights(6, 30), []
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        gamma = torch._standard_gamma(torch.ones(len(a.labels), dtype=torch.float64), generator=generator)
        values = []
        for side in (a, b):
            counts = torch.zeros((CLASSES, CLASSES), dtype=torch.float64)
            for label, predicted, weight in zip(side.labels, side.predicted, gamma, strict=True):
                counts[label, predicted] += weight
            values.append(float(macro_f1(counts / counts.sum(dim=1, keepdim=True) * 6, context)))
        found.append(values)
    ours, theirs = torch.tensor(found, dtype=torch.float64).T
    assert weighted_f1(weights, a).tolist() == pytest.approx(ours.tolist())
    low, high = resampled_limits(weights, a, b, 0.2)
    assert low == pytest.approx(float(torch.quantile(ours - theirs, 0.1)))
    assert high == pytest.approx(float(torch.quantile(ours - theirs, 0.9)))


def test_near_perfect_equal_models_are_told_apart_by_resampling_alone() -> None:
    """Discordant samples that point one way never give a draw on the other side of 0."""
    found = sizes(Case("macro_f1", "all", 0.99, 0.99, 6, 0.0), 0.99, 60, 0)
    assert found.resampled > 0.1
    assert found.now <= 0.1
