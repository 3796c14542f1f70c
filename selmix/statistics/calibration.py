"""Limits of the calibration error, which on a sample is too large: the noise of every bin adds to it.

A bin's gap g with standard error s contributes w |g|, whose mean exceeds w |true gap| by at most w s sqrt(2 / pi).
Resampling counts that bias twice: it covered the error of a calibrated model in no case at any number of samples. What
is covered is the error of the bins, not that of the unbinned probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from torch import Tensor

from selmix.metrics import CALIBRATION_BINS, Predictions, calibration_bins, calibration_bins_of_equal_width
from selmix.statistics.proportions import Bounds, normal_quantile

Bins = Callable[[Predictions], Iterable[tuple[Tensor, Tensor]]]
"""Correctness and confidence of the samples of each bin."""

_MEAN_ABS_NORMAL = math.sqrt(2.0 / math.pi)


def _moments(predictions: Predictions, bins: Bins) -> tuple[float, float, float]:
    """Calibration error, most that noise adds to it in the mean, and its standard error."""
    total = len(predictions.labels)
    error, bias, variance = 0.0, 0.0, 0.0
    for correct, confidence in bins(predictions):
        n = len(correct)
        # Fewer samples than bins leave some of them empty.
        if n == 0:
            continue
        gaps = correct - confidence
        # Of a bin that is right throughout the sample shows no variance: what its confidences tell stands in.
        spread = max(
            float(gaps.var()) if n > 1 else 0.0, float((confidence * (1.0 - confidence)).mean()) / 4.0
        )
        s, weight = math.sqrt(spread / n), n / total
        error += weight * abs(float(gaps.mean()))
        bias += _MEAN_ABS_NORMAL * weight * s
        variance += (weight * s) ** 2
    return error, bias, math.sqrt(variance)


def calibration_bounds(predictions: Predictions, alpha: float, bins: Bins = calibration_bins) -> Bounds:
    """Limits of the calibration error over its bins.

    Args:
        predictions: of a model.
        alpha: 1 - the joint level of both limits.
        bins: of equal mass by default.
    """
    error, bias, deviation = _moments(predictions, bins)
    z = normal_quantile(alpha / 2.0)
    return max(0.0, error - bias - z * deviation), min(1.0, error + z * deviation)


FEWEST_A_BIN = 3
"""Samples per bin of equal width, in the mean, below which no limits are known: of ten in all 15 % of them missed."""


def equal_width_bounds(predictions: Predictions, alpha: float) -> Bounds:
    """:func:`calibration_bounds` over bins of equal width; (0, 1) of fewer than three samples a bin.

    Args:
        predictions: of a model.
        alpha: 1 - the joint level of both limits.
    """
    if len(predictions.labels) < FEWEST_A_BIN * CALIBRATION_BINS:
        return 0.0, 1.0
    return calibration_bounds(predictions, alpha, calibration_bins_of_equal_width)


def calibration_difference(
    a: Predictions, b: Predictions, alpha: float, bins: Bins = calibration_bins
) -> Bounds:
    """Limits of the difference a - b of two calibration errors; the pairing, which would narrow them, is left out.

    Args:
        a: predictions of one model.
        b: predictions of the other.
        alpha: 1 - the joint level of both limits.
        bins: of equal mass by default.
    """
    (error_a, bias_a, deviation_a), (error_b, bias_b, deviation_b) = (_moments(side, bins) for side in (a, b))
    half = normal_quantile(alpha / 2.0) * (deviation_a + deviation_b)
    return error_a - bias_a - error_b - half, error_a - error_b + bias_b + half
