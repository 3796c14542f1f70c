"""Limits of G-mean, H-mean and Q-mean, worked out where each is a plain mean over the classes.

G-mean is exp of the mean of log p, H-mean 1 over the mean of 1 / p, Q-mean 1 minus the root of the mean of (1 - p)^2.
Limits that move one class at a time and put the moved recalls into the metric collapse where two recalls are 0: they
covered the truth in 7 to 38 % of cases at 100 classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from selmix.metrics import MetricContext, Predictions, metric_named
from selmix.statistics.means import Influence, influence_bounds, mean_limits, shrunk_recalls
from selmix.statistics.paired_minima import correlations, paired_squares
from selmix.statistics.proportions import Bounds, clopper_pearson, mover_difference, wilson


@dataclass(frozen=True)
class Curve:
    """One of the means.

    Attributes:
        of: f, recalls -> values whose mean gives the metric, elementwise.
        slope: |f'|, elementwise.
        rises: True if f rises with the recall.
        centre: hits and trials -> values with little bias, elementwise.
        back: mean of f -> the metric.
        difference: values of the metric of two models, and the difference of their means of f -> the difference of the
            metric, of the same sign.
    """

    of: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    rises: bool
    centre: Callable[[Tensor, Tensor], Tensor]
    back: Callable[[float], float]
    difference: Callable[[float, float, float], float]


def _q_difference(a: float, b: float, change: float) -> float:
    roots, most = (1.0 - a) + (1.0 - b), math.sqrt(abs(change))
    # Two roots lie no further apart than the root of their squares' difference; of two perfect models nothing else is
    # known, and 0 for every change would call them equal for certain.
    return -math.copysign(min(abs(change) / roots, most) if roots > 0 else most, change)


CURVES = {
    "g_mean": Curve(
        torch.log, torch.reciprocal, True, lambda x, n: ((x + 0.5) / (n + 0.5)).log(), math.exp,
        lambda a, b, change: 2.0 * math.sqrt(a * b) * math.sinh(change / 2.0),
    ),
    "h_mean": Curve(
        torch.reciprocal, lambda p: p.reciprocal().square(), False, lambda x, n: (n + 1.0) / (x + 1.0),
        lambda mean: 1.0 / mean, lambda a, b, change: -a * b * change,
    ),
    "q_mean": Curve(
        lambda p: (1.0 - p).square(), lambda p: 2.0 * (1.0 - p), False,
        # Of a single sample e (e - 1) / (n (n - 1)) is 0 / 0.
        lambda x, n: (n - x) * (n - x - 1.0).clamp_min(0.0) / (n * (n - 1.0).clamp_min(1.0)),
        lambda mean: 1.0 - math.sqrt(max(0.0, mean)), _q_difference,
    ),
}  # fmt: skip
"""Key -> the mean that it is a function of."""


def curved_bounds(key: str, counts: Tensor, context: MetricContext, alpha: float) -> Bounds:
    """Limits of a G-, H- or Q-mean.

    Each way the larger of two distances from the mean of the centres: MOVER over the classes' Clopper-Pearson limits,
    mapped; and the limits of the linear approximation, as :func:`selmix.statistics.means.mean_limits` has them.

    Args:
        key: ``g_mean``, ``h_mean`` or ``q_mean``.
        counts: shape (K, K).
        context: not read.
        alpha: 1 - the joint level of both limits.
    """
    curve, hits, rows = CURVES[key], counts.diagonal(), counts.sum(dim=1)
    centres = curve.centre(hits, rows)
    lows, highs = (curve.of(ends) for ends in clopper_pearson(hits, rows, alpha / 2.0))
    # Of a falling f the lower limit of a recall is the upper one of f.
    if not curve.rises:
        lows, highs = highs, lows
    classes = len(rows)
    down = float((centres - lows).clamp_min(0.0).norm()) / classes
    up = float((highs - centres).clamp_min(0.0).norm()) / classes

    gains = curve.slope(shrunk_recalls(hits, rows)) / classes
    total = float(gains.sum())
    if total > 0 and math.isfinite(total):
        shares = gains / total
        low, high = mean_limits(shares, hits, rows, alpha / 2.0)
        mean = float((shares * hits / rows).sum())
        below, above = total * (mean - low), total * (high - mean)
        if not curve.rises:
            below, above = above, below
        down, up = max(down, below), max(up, above)
    mean = float(centres.mean())
    ends = sorted((_back(curve, mean - down), _back(curve, mean + up)))
    return max(0.0, ends[0]), min(1.0, ends[1])


def _back(curve: Curve, mean: float) -> float:
    # The mean of 1 / p is at least 1: an H-mean does not exceed 1.
    if curve.back is CURVES["h_mean"].back:
        mean = max(mean, 1.0)
    return 0.0 if math.isinf(mean) else curve.back(mean)


def curved_difference(
    key: str, a: Predictions, b: Predictions, context: MetricContext, alpha: float
) -> Bounds:
    """Limits of the difference a - b of a G-, H- or Q-mean of two models on the same samples.

    Limits of the difference of the means of f, the wider of Newcombe's square-and-add of the mapped limits and the
    linear approximation, brought back with the sign kept. Where a class has no hit, MOVER of the two single limits.

    Args:
        key: ``g_mean``, ``h_mean`` or ``q_mean``.
        a: one model.
        b: the other.
        context: of the metric.
        alpha: 1 - the joint level of both limits.
    """
    curve, metric, classes = CURVES[key], metric_named(key), len(context.train_counts)
    counts = [side.counts(classes).double() for side in (a, b)]
    at_a, at_b = (float(metric.of(each, context)) for each in counts)
    rows = counts[0].sum(dim=1)
    hits = [each.diagonal() for each in counts]
    if key != "q_mean" and bool((torch.stack(hits) == 0).any()):
        first, second = (curved_bounds(key, each, context, alpha) for each in counts)
        return mover_difference((at_a, at_b), (first, second))
    values = [curve.of(x / rows) for x in hits]
    margins = []
    for x, value_of in zip(hits, values, strict=True):
        lowest, highest = (curve.of(end) for end in wilson(x, rows, alpha))
        lowest, highest = (lowest, highest) if curve.rises else (highest, lowest)
        margins.append(((value_of - lowest).clamp_min(0.0), (highest - value_of).clamp_min(0.0)))
    phi = correlations(a.labels, a.correct, b.correct, classes)
    (down_a, up_a), (down_b, up_b) = margins
    mean = float((values[0] - values[1]).mean())
    low = mean - float(paired_squares(down_a, up_b, phi).sum().sqrt()) / classes
    high = mean + float(paired_squares(up_a, down_b, phi).sum().sqrt()) / classes

    sign = 1.0 if curve.rises else -1.0
    slopes = [sign * curve.slope(shrunk_recalls(x, rows)) / (classes * rows) for x in hits]
    each = slopes[0][a.labels] * a.correct.double() - slopes[1][b.labels] * b.correct.double()
    influence = Influence(each, max(float(slope.abs().max()) for slope in slopes))
    linear = influence_bounds(a.labels, mean, influence, alpha)
    ends = [curve.difference(at_a, at_b, end) for end in (min(low, linear[0]), max(high, linear[1]))]
    return max(-1.0, min(ends)), min(1.0, max(ends))
