"""Limits of a metric of the user's own, of unknown range and shape: by influence values, where it is smooth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from selmix.metrics import MetricContext, Predictions
from selmix.own_metrics import OwnFunction, own_function, tried_matrices
from selmix.statistics.means import Influence, shrunk_rows
from selmix.statistics.proportions import Bounds, normal_quantile, student_quantile
from selmix.statistics.resampling import resample_rows

DRAWS = 200  # of the matrix, for bias and spread
LINEAR = 0.3
"""Share of a function's spread over draws up to which what the influence values leave of it is no matter: 0.2 at most
for smooth functions of 24 samples a class and more, 0.35 and more for minima of classes that are near each other."""

_NUMBERS_AT_ONCE = 2**22  # bounds the memory of draws


@dataclass(frozen=True)
class _Local:
    """A function around counts.

    Attributes:
        gradient: derivatives by the counts, shape (K, K).
        value: of the counts.
        variance: of the function over samples of this size, by the influence values.
        bias: mean over such samples minus the value.
        spread: standard deviation over such samples.
        rest: standard deviation of what the influence values leave.
    """

    gradient: Tensor
    value: float
    variance: float
    bias: float
    spread: float
    rest: float

    @property
    def is_smooth(self) -> bool:
        """True if influence values describe how the function varies, and its bias lies within its noise."""
        return self.rest <= LINEAR * self.spread + 1e-12 and abs(self.bias) <= self.variance**0.5 + 1e-12


def own_bounds(key: str, counts: Tensor, context: MetricContext, alpha: float) -> Bounds:
    """Limits of one model: those of Agresti and Coull, carried over by the delta method.

    z^2 pseudo-samples in all, half of them hits, are spread over the rows by what these can contribute; there the
    value, less its bias, has limits by the influence values, with Student's t for z, since a few rows of few samples
    may hold most of the variance (Satterthwaite). For one proportion this is the interval of Agresti and Coull but for
    t. Where influence values do not describe the function, or its bias exceeds the standard error, no limits are known:
    they are the least and the largest value that it is seen to take.

    Args:
        key: ``module:function``.
        counts: shape (K, K).
        context: of the metric.
        alpha: 1 - the joint level of both limits.
    Source: Agresti and Coull, "Approximate is better than exact", The American Statistician, 1998; Satterthwaite, "An
    approximate distribution of estimates of variance components", Biometrics Bulletin, 1946.
    """
    function, rows = own_function(key), counts.sum(dim=1)
    added = normal_quantile(alpha / 2.0) ** 2 * _contributions(function, counts, context)
    near = with_pseudo_samples(counts, added)
    found = _around(function, counts, near, context)
    if not found.is_smooth:
        return range_of(function, counts, context)
    # The pseudo-samples count as samples.
    total = rows + added
    within = (near * found.gradient.square()).sum(dim=1) - (near * found.gradient).sum(dim=1).square()
    of_rows = rows**2 / total * within.clamp_min(0.0)
    centre, variance = found.value - found.bias, float(of_rows.sum())
    if variance == 0.0:
        return centre, centre
    freedom = variance**2 / float((of_rows**2 / (total - 1.0).clamp_min(1.0)).sum())
    half = student_quantile(freedom, alpha) * variance**0.5
    return centre - half, centre + half


def _contributions(function: OwnFunction, counts: Tensor, context: MetricContext) -> Tensor:
    """Share of the variance that each row would have if its samples moved as far as they can, shape (K,), sum 1."""
    rows = counts.sum(dim=1)
    gradient = function.gradient(shrunk_rows(counts) * rows.unsqueeze(1), context)
    most = rows * (gradient.amax(dim=1) - gradient.amin(dim=1)).square()
    # A function that nothing moves has no such row.
    return most / most.sum() if float(most.sum()) > 0 else torch.full_like(most, 1.0 / len(most))


def own_influence(key: str, a: Predictions, b: Predictions, context: MetricContext) -> Influence:
    """Influence of the samples on the difference of two models' values of a function.

    Where influence values do not describe the function, a single sample may contribute the whole range that it is seen
    to take, so that no difference is told from 0.

    Args:
        key: ``module:function``.
        a: one model.
        b: the other, on the same samples.
        context: of the metric.
    """
    function, classes = own_function(key), len(context.train_counts)
    sides = [side.counts(classes).double() for side in (a, b)]
    found = [_around(function, each, shrunk_rows(each), context) for each in sides]
    if not all(each.is_smooth for each in found):
        ends = [range_of(function, counts, context) for counts in sides]
        reach = max(high for _, high in ends) - min(low for low, _ in ends)
        return Influence(torch.zeros(len(a.labels), dtype=torch.float64), reach, reach)
    ours, theirs = (each.gradient for each in found)
    return Influence(
        ours[a.labels, a.predicted] - theirs[b.labels, b.predicted],
        max(float((each.amax(dim=1) - each.amin(dim=1)).max()) for each in (ours, theirs)),
    )


def with_pseudo_samples(counts: Tensor, added: Tensor) -> Tensor:
    """Rows of shares with ``added`` pseudo-samples, half of them hits, the others as the misses of all rows.

    Args:
        counts: shape (K, K), every row with a sample.
        added: to each row, shape (K,).
    Returns:
        Shape (K, K), rows sum to 1.
    """
    misses = counts.sum(dim=0) - counts.diagonal()
    # A class that nothing is confused with may be confused with, too.
    shares = (misses + 1.0 / len(counts)).expand_as(counts).clone()
    shares.diagonal().zero_()
    shares = 0.5 * shares / shares.sum(dim=1, keepdim=True)
    shares.diagonal().fill_(0.5)
    together = counts + added.unsqueeze(1) * shares
    return together / together.sum(dim=1, keepdim=True)


def range_of(function: OwnFunction, counts: Tensor, context: MetricContext) -> Bounds:
    """Least and largest value of a function among matrices of these rows: perfect, useless, all wrong, and this one.

    Args:
        function: of the matrix.
        counts: shape (K, K).
        context: of the metric.
    """
    rows, classes = counts.sum(dim=1, keepdim=True), counts.shape[0]
    shares = [each / each.sum(dim=1, keepdim=True) for _, each in tried_matrices(classes)]
    shares += [torch.eye(classes, dtype=torch.float64).roll(shift, dims=1) for shift in (1, -1)]
    values = [float(function(matrix, context)) for matrix in (counts, *(rows * each for each in shares))]
    return min(values), max(values)


def _around(function: OwnFunction, counts: Tensor, near: Tensor, context: MetricContext) -> _Local:
    """Describe a function around rows of shares ``near``, at the row sums of ``counts``."""
    rows = counts.sum(dim=1)
    expected = near * rows.unsqueeze(1)
    value, gradient = float(function(expected, context)), function.gradient(expected, context)
    within = (near * gradient.square()).sum(dim=1) - (near * gradient).sum(dim=1).square()
    variance = float((rows * within.clamp_min(0.0)).sum())
    # One seed: equal counts have equal limits.
    generator, size = torch.Generator().manual_seed(0), max(1, _NUMBERS_AT_ONCE // counts.numel())
    moved, curved = [], []
    for start in range(0, DRAWS, size):
        drawn = resample_rows(expected, min(size, DRAWS - start), generator, rows)
        moved.append(function(drawn, context) - value)
        # The linear part has no bias: without it little is left to vary between draws.
        curved.append(moved[-1] - ((drawn - expected) * gradient).sum(dim=(1, 2)))
    left = torch.cat(curved)
    return _Local(
        gradient, value, variance, float(left.mean()), float(torch.cat(moved).std()), float(left.std())
    )
