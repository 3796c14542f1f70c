"""Calibration error: its moments by a loop, and the coverage of a calibrated model, which resampling never covered."""

from __future__ import annotations

import math

import pytest
import torch

from selmix.metrics import METRICS, MetricContext, Predictions
from selmix.statistics.calibration import calibration_bounds, calibration_difference

CONTEXT = MetricContext(torch.tensor([5, 5]))


def draw(n: int, shift: float, seed: int) -> Predictions:
    """Two classes; confidences exceed the chance to be right by ``shift``."""
    generator = torch.Generator().manual_seed(seed)
    confidence = shift + (1 - shift) * torch.rand(n, generator=generator)
    labels = torch.arange(n) % 2
    right = torch.rand(n, generator=generator) < confidence - shift
    return Predictions(labels, torch.where(right, labels, 1 - labels), confidence)


def test_limits_by_a_loop_over_the_bins() -> None:
    predictions = draw(100, 0.1, 0)
    order = torch.argsort(predictions.confidence, stable=True)
    error = bias = variance = 0.0
    # 15 bins of 100 samples: ten of 7, five of 6.
    for index in order.split([7] * 10 + [6] * 5):
        correct, confidence = predictions.correct[index].double(), predictions.confidence[index].double()
        gaps, weight = correct - confidence, len(index) / 100
        s = math.sqrt(max(float(gaps.var()), float((confidence * (1 - confidence)).mean()) / 4) / len(index))
        error += weight * abs(float(gaps.mean()))
        bias += 0.797885 * weight * s
        variance += (weight * s) ** 2
    half = 1.959964 * math.sqrt(variance)
    expected = (max(0.0, error - bias - half), error + half)
    assert calibration_bounds(predictions, 0.05) == pytest.approx(expected, rel=1e-5)
    assert error == pytest.approx(predictions.value(METRICS["calibration_error"], CONTEXT))


@pytest.mark.parametrize(("n", "shift"), [(48, 0.0), (240, 0.0), (1000, 0.0), (1000, 0.1)])
def test_the_error_of_the_probabilities_is_covered(n: int, shift: float) -> None:
    held = 0
    for seed in range(100):
        low, high = calibration_bounds(draw(n, shift, seed), 0.05)
        held += low - 1e-9 <= shift <= high
    # 100 draws: at a true coverage of .95 fewer than 88 with probability .002.
    assert held >= 88


def test_limits_narrow_with_the_samples_and_see_a_large_error() -> None:
    widths = [high - low for low, high in (calibration_bounds(draw(n, 0.3, 0), 0.05) for n in (100, 10_000))]
    assert widths[1] < 0.2 * widths[0]
    assert calibration_bounds(draw(2000, 0.3, 1), 0.05)[0] > 0.2
    assert calibration_difference(draw(4000, 0.4, 2), draw(4000, 0.0, 3), 0.05)[0] > 0.2


def test_fewer_samples_than_bins_and_certain_ones_have_limits() -> None:
    sure = Predictions(torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.int64), torch.ones(5))
    assert calibration_bounds(sure, 0.05) == (0.0, 0.0)  # right with certainty, five times of five
    few = draw(5, 0.2, 0)
    low, high = calibration_bounds(few, 0.05)
    assert 0.0 <= low <= high <= 1.0
    assert calibration_difference(few, few, 0.05)[0] < 0 < calibration_difference(few, few, 0.05)[1]
