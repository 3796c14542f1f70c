"""Limits of metrics that follow from the whole matrix: macro F1, the least precision, the least coverage."""

from __future__ import annotations

import torch
from torch import Tensor

from selmix.confusion import precisions
from selmix.metric_functions import macro_f1
from selmix.metrics import MetricContext, Predictions
from selmix.statistics.means import Influence, shrunk_rows
from selmix.statistics.paired_minima import SPLIT, Parts, each_side, least_difference, proportions
from selmix.statistics.proportions import Bounds, clopper_pearson, normal_quantile, sidak

NOTHING = (0.0, 1.0)
"""Limits of a fraction of which the samples say nothing."""

_FEW_PREDICTIONS = 10  # a precision of fewer has no paired limit
_PRIOR_COUNTS = 0.5


def macro_f1_bounds(counts: Tensor, context: MetricContext, alpha: float) -> Bounds:
    """Limits of macro F1: Clopper-Pearson with as many samples as have its variance, its bias taken out.

    Variance (delta method) and bias (second order) are those at rows with one pooled pseudo-sample each. Where the
    bias exceeds the standard error, as with 1,000 classes of five samples, no limits are known.

    Args:
        counts: shape (K, K).
        context: of the metric.
        alpha: 1 - the joint level of both limits.
    """
    rows, total, classes = counts.sum(dim=1), float(counts.sum()), counts.shape[0]
    near = shrunk_rows(counts)
    expected = near * rows.unsqueeze(1)
    influence = f1_influences(expected)
    within = (near * influence.square()).sum(dim=1) - (near * influence).sum(dim=1).square()
    variance = float((rows * within.clamp_min(0.0)).sum())
    bias = _f1_bias(near, rows)
    value = float(macro_f1(counts, context))
    if abs(bias) > variance**0.5 and classes > 2:
        return NOTHING
    centre = min(max(value - bias, 0.25 / total), 1.0 - 0.25 / total)
    # A mean over classes of n_k samples has no more than these, were all classes alike.
    most = float(classes**2 / (1.0 / rows).sum())
    samples = min(most, centre * (1.0 - centre) / variance) if variance > 0 else most
    n = torch.tensor([samples], dtype=torch.float64)
    low, high = clopper_pearson(n * centre, n, alpha / 2.0)
    return min(value, float(low)), max(value, float(high))


def f1_influences(counts: Tensor) -> Tensor:
    """Change of macro F1 with one more sample of class i predicted as class j, up to a constant of the row.

    Args:
        counts: shape (K, K).
    Returns:
        (2 [i = j] - F_j) / (K (r_j + c_j)) with row and column sums r and c, shape (K, K).
    """
    size = counts.sum(dim=1) + counts.sum(dim=0)
    f1 = 2.0 * counts.diagonal() / size
    return (2.0 * torch.eye(len(size), dtype=torch.float64) - f1) / (len(size) * size)


def _f1_bias(near: Tensor, rows: Tensor) -> float:
    """Mean of macro F1 over samples of this size minus its true value, to second order."""
    hit = near.diagonal()
    x = rows * hit
    spread = near * (1.0 - near) * rows.unsqueeze(1)
    of_hits = spread.diagonal()
    of_others = spread.sum(dim=0) - of_hits
    others = (near * rows.unsqueeze(1)).sum(dim=0) - x
    # F = 2 x / (r + x + y): hits x and other predictions y of a class come from different rows.
    size = rows + x + others
    second = -4.0 * (rows + others) / size**3 * of_hits + 4.0 * x / size**3 * of_others
    return float(0.5 * second.mean())


def macro_f1_influence(a: Predictions, b: Predictions, context: MetricContext) -> Influence:
    """Influence of the samples on the difference of two models' macro F1."""
    classes = len(context.train_counts)
    sides = [f1_influences(side.counts(classes).double()) for side in (a, b)]
    each = sides[0][a.labels, a.predicted] - sides[1][b.labels, b.predicted]
    return Influence(each, max(float((side.amax(dim=1) - side.amin(dim=1)).max()) for side in sides))


def min_precision_bounds(counts: Tensor, context: MetricContext, alpha: float) -> Bounds:
    """Limits of the smallest precision; of a class that is never predicted nothing is known.

    Args:
        counts: shape (K, K).
        context: of the metric.
        alpha: 1 - the joint level of both limits.
    """
    hits, columns = counts.diagonal(), counts.sum(dim=0)
    low, _ = clopper_pearson(hits, columns, alpha / 2.0)
    # Bonferroni and not Sidak: columns are not independent.
    _, high = clopper_pearson(hits, columns, alpha / (2.0 * len(columns)))
    known = columns > 0
    return float(torch.where(known, low, 0.0).min()), float(torch.where(known, high, 1.0).min())


def min_precision_difference(a: Predictions, b: Predictions, context: MetricContext, alpha: float) -> Bounds:
    """Limits of the difference a - b of the smallest precisions, as those of minima, with linearised paired limits.

    Args:
        a: one model.
        b: the other, on the same samples.
        context: of the metric.
        alpha: 1 - the joint level of both limits.
    """
    classes = len(context.train_counts)
    counts = [side.counts(classes).double() for side in (a, b)]
    columns = [each.sum(dim=0) for each in counts]
    values = [precisions(each) for each in counts]
    sides = [proportions(each.diagonal(), m, alpha) for each, m in zip(counts, columns, strict=True)]

    # Sum over the samples of (phi_a - phi_b)^2, phi = (hit - precision) / m of the samples predicted as the class.
    squares = torch.zeros(classes, dtype=torch.float64)
    parts = []
    for side, value, m in zip((a, b), values, columns, strict=True):
        phi = (side.correct.double() - value[side.predicted]) / m[side.predicted]
        squares += torch.bincount(side.predicted, weights=phi.square(), minlength=classes)
        parts.append(phi)
    same = a.predicted == b.predicted
    product = parts[0][same] * parts[1][same]
    squares -= 2.0 * torch.bincount(a.predicted[same], weights=product, minlength=classes)

    fewest = torch.minimum(*columns)
    largest = 1.0 / fewest.clamp_min(1.0)
    half = normal_quantile(SPLIT * alpha / 2.0) * (squares.clamp_min(0.0) + 2.0 * largest.square()).sqrt()
    shrunk = (values[0] - values[1]) * fewest / (fewest + 2.0)
    enough = fewest >= _FEW_PREDICTIONS
    lower = torch.where(enough, shrunk - half, -torch.inf)
    upper = torch.where(enough, -shrunk - half, -torch.inf)
    return (
        max(-1.0, least_difference(lower, sides[0], sides[1], alpha)),
        min(1.0, -least_difference(upper, sides[1], sides[0], alpha)),
    )


def coverage_members(key: str, context: MetricContext) -> Tensor:
    """Groups of classes whose mean coverages the metric is the least of, 0 or 1, shape (G, K)."""
    if key == "min_coverage":
        return torch.eye(len(context.train_counts), dtype=torch.float64)
    tail = context.tail.cpu()
    members = torch.stack([~tail, tail]).double()
    return members[members.sum(dim=1) > 0]


def coverage_bounds(key: str, counts: Tensor, context: MetricContext, alpha: float) -> Bounds:
    """Limits of the least coverage, of a class or of head and tail in the mean.

    Args:
        key: ``min_coverage`` or ``min_head_tail_coverage``.
        counts: shape (K, K).
        context: of the metric; it says which classes are the tail.
        alpha: 1 - the joint level of both limits.
    """
    members = coverage_members(key, context)
    low = _score_limits(counts, members, alpha / 2.0, -1.0)
    high = _score_limits(counts, members, sidak(alpha / 2.0, len(members)), 1.0)
    return float(low.min()), float(high.min())


def _score_limits(counts: Tensor, members: Tensor, miss: float, side: float) -> Tensor:
    """One-sided score limits of the mean coverages of groups of classes, shape (G,).

    A coverage is a sum over rows of binomial counts, whose variances add up. They are nearly in proportion to the
    coverage itself, so a limit v is where the observed value lies z sqrt(variance at v) away, as in Wilson's interval.
    """
    values, _, per_unit = _coverages(counts, members)
    # The solution of v = values + side z sqrt(per_unit v), a quadratic equation in sqrt(v).
    step = side * normal_quantile(miss) * per_unit.sqrt()
    return ((step + (step.square() + 4.0 * values).sqrt()) / 2.0).square()


def _coverages(counts: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean coverages of groups of classes, near values that are never 0, and their variance per unit of value."""
    rows, scale = counts.sum(dim=1, keepdim=True), members.sum(dim=1) * counts.sum()
    # Half a count spread over each row: a group that is never predicted has a variance too.
    near_rows = ((counts + _PRIOR_COUNTS / counts.shape[1]) / (rows + _PRIOR_COUNTS)) @ members.T
    near = (rows * near_rows).sum(dim=0) / scale
    per_unit = (rows * near_rows * (1.0 - near_rows)).sum(dim=0).clamp_min(0.0) / scale.square() / near
    return (counts @ members.T).sum(dim=0) / scale, near, per_unit


def coverage_difference(
    key: str, a: Predictions, b: Predictions, context: MetricContext, alpha: float
) -> Bounds:
    """Limits of the difference a - b of the least coverages, as those of minima, with paired limits of each coverage.

    Args:
        key: ``min_coverage`` or ``min_head_tail_coverage``.
        a: one model.
        b: the other, on the same samples.
        context: of the metric.
        alpha: 1 - the joint level of both limits.
    """
    classes, members = len(context.train_counts), coverage_members(key, context)
    counts = [side.counts(classes).double() for side in (a, b)]
    sides = [_coverage_parts(each, members, alpha) for each in counts]
    # Samples whose predictions lie in different groups are all that a difference comes from.
    total, sizes = len(a.labels), members.sum(dim=1)
    group = members.argmax(dim=0)
    ours, theirs = group[a.predicted], group[b.predicted]
    moved = ours != theirs
    squares = sum(
        (torch.bincount(each[moved], minlength=len(members)).double() for each in (ours, theirs)),
        torch.zeros(len(members), dtype=torch.float64),
    )
    scale = sizes * total
    half = normal_quantile(SPLIT * alpha / 2.0) * (squares + 2.0).sqrt() / scale
    shrunk = (sides[0].value - sides[1].value) * total / (total + 2.0)
    return (
        least_difference(shrunk - half, sides[0], sides[1], alpha),
        -least_difference(-shrunk - half, sides[1], sides[0], alpha),
    )


def _coverage_parts(counts: Tensor, members: Tensor, alpha: float) -> Parts:
    values, near, per_unit = _coverages(counts, members)
    return Parts(
        values,
        _score_limits(counts, members, each_side(alpha), -1.0),
        (near, (per_unit * near).sqrt()),
        lambda miss: _score_limits(counts, members, miss, 1.0),
        lambda probability: _score_limits(counts, members, 1.0 - probability, 1.0),
    )
