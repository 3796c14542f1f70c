"""Limits of metrics that follow from the whole matrix: macro F, MCC, kappa, the least precision, the least coverage."""

from __future__ import annotations

import torch
from torch import Tensor

from selmix.confusion import precisions
from selmix.metrics import METRICS, MetricContext, Predictions
from selmix.statistics.means import Influence, shrunk_rows
from selmix.statistics.paired_minima import SPLIT, Parts, each_side, least_difference, proportions
from selmix.statistics.proportions import Bounds, clopper_pearson, normal_quantile, sidak

NOTHING = (0.0, 1.0)
"""Limits of a fraction of which the samples say nothing."""

_FEW_PREDICTIONS = 10  # a precision of fewer has no paired limit
_PRIOR_COUNTS = 0.5


def macro_f_bounds(key: str, counts: Tensor, context: MetricContext, alpha: float) -> Bounds:
    """Limits of macro F1 or F-beta: Clopper-Pearson with as many samples as have its variance, its bias taken out.

    Variance (delta method) and bias (second order) are those at rows with one pooled pseudo-sample each. Where the
    bias exceeds the standard error, as with 1,000 classes of five samples, no limits are known.

    Args:
        key: ``macro_f1`` or ``f_beta``.
        counts: shape (K, K).
        context: of the metric.
        alpha: 1 - the joint level of both limits.
    """
    square = squared_beta(key, context)
    rows, classes = counts.sum(dim=1), counts.shape[0]
    near = shrunk_rows(counts)
    expected = near * rows.unsqueeze(1)
    influence = macro_f_influences(expected, square)
    variance = _variance(near, influence, rows)
    bias = _macro_f_bias(near, rows, square)
    value = float(METRICS[key].of(counts, context))
    if abs(bias) > variance**0.5 and classes > 2:
        return NOTHING
    low, high = _fraction_limits(value - bias, variance, rows, alpha)
    return min(value, low), max(value, high)


def squared_beta(key: str, context: MetricContext) -> float:
    """b^2 of a macro F: 1 for macro F1."""
    return context.definitions.beta**2 if key == "f_beta" else 1.0


def _variance(near: Tensor, influence: Tensor, rows: Tensor) -> float:
    """Variance of a sum of influences over samples that are drawn row by row from the shares ``near``."""
    within = (near * influence.square()).sum(dim=1) - (near * influence).sum(dim=1).square()
    return float((rows * within.clamp_min(0.0)).sum())


def _fraction_limits(value: float, variance: float, rows: Tensor, alpha: float) -> Bounds:
    """Clopper-Pearson's limits of a fraction with as many samples as have its variance."""
    total, classes = float(rows.sum()), len(rows)
    centre = min(max(value, 0.25 / total), 1.0 - 0.25 / total)
    # A mean over classes of n_k samples has no more than these, were all classes alike.
    most = float(classes**2 / (1.0 / rows).sum())
    samples = min(most, centre * (1.0 - centre) / variance) if variance > 0 else most
    n = torch.tensor([samples], dtype=torch.float64)
    low, high = clopper_pearson(n * centre, n, alpha / 2.0)
    return float(low), float(high)


def macro_f_influences(counts: Tensor, square: float = 1.0) -> Tensor:
    """Change of macro F with one more sample of class i predicted as class j, up to a constant of the row.

    Args:
        counts: shape (K, K).
        square: b^2, 1 for F1.
    Returns:
        ((1 + b^2) [i = j] - F_j) / (K (b^2 r_j + c_j)) with row and column sums r and c, shape (K, K).
    """
    size = square * counts.sum(dim=1) + counts.sum(dim=0)
    each = (1.0 + square) * counts.diagonal() / size
    return ((1.0 + square) * torch.eye(len(size), dtype=torch.float64) - each) / (len(size) * size)


def _macro_f_bias(near: Tensor, rows: Tensor, square: float) -> float:
    """Mean of macro F over samples of this size minus its true value, to second order."""
    hit = near.diagonal()
    x = rows * hit
    spread = near * (1.0 - near) * rows.unsqueeze(1)
    of_hits = spread.diagonal()
    of_others = spread.sum(dim=0) - of_hits
    others = (near * rows.unsqueeze(1)).sum(dim=0) - x
    # F = (1 + b^2) x / (b^2 r + x + y): hits x and other predictions y of a class come from different rows.
    weighted, twice = square * rows, 2.0 * (1.0 + square)
    size = weighted + x + others
    second = -twice * (weighted + others) / size**3 * of_hits + twice * x / size**3 * of_others
    return float(0.5 * second.mean())


def macro_f_influence(key: str, a: Predictions, b: Predictions, context: MetricContext) -> Influence:
    """Influence of the samples on the difference of two models' macro F1 or F-beta."""
    square = squared_beta(key, context)
    classes = len(context.train_counts)
    return _difference(a, b, [macro_f_influences(side.counts(classes).double(), square) for side in (a, b)])


def _difference(a: Predictions, b: Predictions, sides: list[Tensor]) -> Influence:
    """Influence on a difference from the changes (K, K) of either side's metric with one more sample."""
    each = sides[0][a.labels, a.predicted] - sides[1][b.labels, b.predicted]
    return Influence(each, max(float((side.amax(dim=1) - side.amin(dim=1)).max()) for side in sides))


def agreement_bounds(key: str, counts: Tensor, context: MetricContext, alpha: float) -> Bounds:
    """Limits of MCC or kappa: those of the fraction (value + c) / (1 + c) with c = 1 / (K - 1).

    Of K classes alike both are (accuracy K - 1) / (K - 1): the fraction is then the accuracy. Below -c, where decisions
    are worse than none, the lower limit is -1. Clopper-Pearson with as many samples as have its variance by the delta
    method, at rows with one pooled pseudo-sample each. Both are quotients of sums over samples whose bias is of the
    order of one sample: it is left in.

    Args:
        key: ``mcc`` or ``cohen_kappa``.
        counts: shape (K, K).
        context: of the metric.
        alpha: 1 - the joint level of both limits.
    """
    rows, near = counts.sum(dim=1), shrunk_rows(counts)
    variance = _variance(near, matrix_influences(key, counts, context), rows)
    value = float(METRICS[key].of(counts, context))
    least = 1.0 / (len(rows) - 1)
    low, high = _fraction_limits((value + least) / (1.0 + least), variance / (1.0 + least) ** 2, rows, alpha)
    lower = (1.0 + least) * low - least if value > -least else -1.0
    return min(value, lower), max(value, (1.0 + least) * high - least)


def matrix_influences(key: str, counts: Tensor, context: MetricContext) -> Tensor:
    """Change of a metric with one more sample of class i predicted as class j: its gradient by the counts.

    At rows with one pooled pseudo-sample each, where no class goes without predictions.

    Args:
        key: of a metric of the whole matrix that is differentiable in it.
        counts: shape (K, K).
        context: of the metric.
    Returns:
        Shape (K, K), float64.
    """
    rows = counts.sum(dim=1, keepdim=True)
    near = (shrunk_rows(counts) * rows).requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(METRICS[key].of_matrix(near, context), near)
    return gradient


def agreement_influence(key: str, a: Predictions, b: Predictions, context: MetricContext) -> Influence:
    """Influence of the samples on the difference of two models' MCC or kappa."""
    classes = len(context.train_counts)
    counts = (side.counts(classes).double() for side in (a, b))
    return _difference(a, b, [matrix_influences(key, each, context) for each in counts])


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
