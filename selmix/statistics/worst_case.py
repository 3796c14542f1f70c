"""Confidence bounds of metrics that follow the worst classes: minima, the mean of the worst, the gap.

Such a metric is biased on a sample (the smallest of noisy recalls is too small) and may not change when a single recall
does, so bounds that move one class at a time collapse: they covered the truth in 0 to 8 % of simulated cases with
classes alike. Here the lower bound of a minimum over sets of classes is the smallest of the sets' own bounds, since
the set that attains the true minimum misses its own with probability alpha / 2 at most; the other bounds are those of
all classes at once (Sidak), put into the metric, which is monotone in every recall.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from selmix.definitions import cvar_of_recalls
from selmix.groups import GROUP_RATES, Rates, stratum_labels
from selmix.metrics import MetricContext
from selmix.statistics.proportions import clopper_pearson, mean_bounds, sidak

Bounds = tuple[float, float]
"""Lower and upper confidence bound."""

_PRIOR_COUNTS = 0.5


def min_recall_bounds(counts: Tensor, context: MetricContext, alpha: float) -> Bounds:
    """Exact bounds of the smallest recall.

    Args:
        counts: shape (K, K).
        context: of the metric.
        alpha: 1 - the joint level of both bounds.
    """
    hits, rows = counts.diagonal(), counts.sum(dim=1)
    low, _ = clopper_pearson(hits, rows, alpha / 2.0)
    _, high = clopper_pearson(hits, rows, sidak(alpha / 2.0, len(rows)))
    return float(low.min()), float(high.min())


def min_head_tail_recall_bounds(counts: Tensor, context: MetricContext, alpha: float) -> Bounds:
    """Bounds of the smaller of head's and tail's mean recall: those of a minimum, with the bounds of a mean for each.

    Args:
        counts: shape (K, K).
        context: of the metric; it says which classes are the tail.
        alpha: 1 - the joint level of both bounds.
    """
    rows, tail = counts.sum(dim=1), context.tail.to(counts.device)
    means = counts.diagonal() / rows
    lows, highs = [], []
    for group in (~tail, tail):
        shares = group.double() / group.sum()
        # Only the upper bounds are corrected: they must hold for both groups at once, see the top of this file.
        lows.append(mean_bounds(shares, means, rows, alpha / 2.0)[0])
        highs.append(mean_bounds(shares, means, rows, sidak(alpha / 2.0, 2))[1])
    return min(lows), min(highs)


def cvar_recall_bounds(counts: Tensor, context: MetricContext, alpha: float) -> Bounds:
    """Bounds of the mean of the worst recalls, the minimum over all sets of so many classes.

    Args:
        counts: shape (K, K).
        context: of the metric; its definitions give the share of the classes.
        alpha: 1 - the joint level of both bounds.
    """
    rows, fraction = counts.sum(dim=1), context.definitions.cvar_fraction
    means = counts.diagonal() / rows
    amount = max(1.0, fraction * len(rows))
    shares = (amount - torch.arange(len(rows), dtype=torch.float64)).clamp(0.0, 1.0) / amount
    # There are too many sets to try: every set's bound is at least that of the observed worst recalls with the
    # smallest numbers of samples, whichever classes these are of.
    low, _ = mean_bounds(shares, means.sort().values, rows.sort().values, alpha / 2.0)
    _, highs = clopper_pearson(counts.diagonal(), rows, sidak(alpha / 2.0, len(rows)))
    return low, float(cvar_of_recalls(highs, fraction))


def recall_gap_bounds(counts: Tensor, context: MetricContext, alpha: float) -> Bounds:
    """Bounds of the largest recall minus the smallest, from bounds of all classes at once.

    Args:
        counts: shape (K, K).
        context: of the metric.
        alpha: 1 - the joint level of both bounds.
    """
    hits, rows = counts.diagonal(), counts.sum(dim=1)
    low, high = clopper_pearson(hits, rows, sidak(alpha / 2.0, len(rows)))
    return max(0.0, float(low.max() - high.min())), float(high.max() - low.min())


def min_coverage_bounds(counts: Tensor, context: MetricContext, alpha: float) -> Bounds:
    """Bounds of the smallest coverage.

    Args:
        counts: shape (K, K).
        context: of the metric.
        alpha: 1 - the joint level of both bounds.
    """
    return _min_coverage_of_groups(counts, torch.eye(counts.shape[1], dtype=torch.float64), alpha)


def min_head_tail_coverage_bounds(counts: Tensor, context: MetricContext, alpha: float) -> Bounds:
    """Bounds of the smaller of head's and tail's mean coverage.

    Args:
        counts: shape (K, K).
        context: of the metric; it says which classes are the tail.
        alpha: 1 - the joint level of both bounds.
    """
    tail = context.tail.to(counts.device)
    return _min_coverage_of_groups(counts, torch.stack([~tail, tail]).double(), alpha)


def _min_coverage_of_groups(counts: Tensor, members: Tensor, alpha: float) -> Bounds:
    """Bounds of the least mean coverage of groups of classes: those of a minimum, with score bounds for each group.

    A coverage is a sum over rows of binomial counts, whose variances add up. They are nearly in proportion to the
    coverage itself, so a bound v is where the observed value lies z sqrt(variance at v) away, as in Wilson's interval.

    Args:
        counts: shape (K, K).
        members: of the groups, 0 or 1, shape (G, K).
        alpha: 1 - the joint level of both bounds.
    """
    rows, scale = counts.sum(dim=1, keepdim=True), members.sum(dim=1) * counts.sum()
    # Half a count spread over each row: a group that is never predicted has a variance too.
    shares = ((counts + _PRIOR_COUNTS / counts.shape[1]) / (rows + _PRIOR_COUNTS)) @ members.T
    near = (rows * shares).sum(dim=0) / scale
    per_unit = (rows * shares * (1.0 - shares)).sum(dim=0).clamp_min(0.0) / scale.square() / near
    values = (counts @ members.T).sum(dim=0) / scale

    def bounds(alpha: float, side: float) -> Tensor:
        # The solution of v = values + side z sqrt(per_unit v), a quadratic equation in sqrt(v).
        step = side * _normal_quantile(alpha) * per_unit.sqrt()
        return ((step + (step.square() + 4.0 * values).sqrt()) / 2.0).square()

    low, high = bounds(alpha / 2.0, -1.0), bounds(sidak(alpha / 2.0, len(members)), 1.0)
    return float(low.min()), float(high.min())


def _normal_quantile(alpha: float) -> float:
    """Distance in standard deviations that a normal variable exceeds with probability ``alpha``."""
    return -float(torch.special.ndtri(torch.tensor(alpha, dtype=torch.float64)))


def worst_group_recall_bounds(cells: Tensor, context: MetricContext, alpha: float) -> Bounds:
    """Exact bounds of the smallest recall of a (class, group) cell, as :func:`min_recall_bounds` has them.

    Args:
        cells: counts, shape (K A, K).
        context: of the metric; it gives the number of groups, A.
        alpha: 1 - the joint level of both bounds.
    """
    labels = stratum_labels(cells.shape[1], context.num_groups)
    rows = cells.sum(dim=1)
    # A cell without samples has no recall, and the metric leaves it out too.
    hits = cells.gather(1, labels.unsqueeze(1)).squeeze(1)[rows > 0]
    rows = rows[rows > 0]
    low, _ = clopper_pearson(hits, rows, alpha / 2.0)
    _, high = clopper_pearson(hits, rows, sidak(alpha / 2.0, len(rows)))
    return float(low.min()), float(high.min())


def group_gap_bounds(
    rates_of: Callable[[Tensor, int], Rates],
) -> Callable[[Tensor, MetricContext, float], Bounds]:
    """Bounds of a largest difference between groups, from bounds of all its proportions at once."""

    def bounds(cells: Tensor, context: MetricContext, alpha: float) -> Bounds:
        """Bounds of the gap.

        Args:
            cells: counts, shape (K A, K).
            context: of the metric; it gives the number of groups, A.
            alpha: 1 - the joint level of both bounds.
        """
        hits, trials = rates_of(cells, context.num_groups)
        present = trials > 0
        low, high = clopper_pearson(hits[present], trials[present], sidak(alpha / 2.0, int(present.sum())))
        # A group without trials must attain neither end: its bounds are infinite, away from the end that is sought.
        lows, highs = torch.full_like(hits, torch.inf), torch.full_like(hits, -torch.inf)
        lows[present], highs[present] = low, high
        most = (highs.amax(dim=0) - lows.amin(dim=0)).max()
        # The gap is at least that between the highest lower bound and the lowest upper one, if they lie apart.
        inner_high = torch.where(present, lows, -torch.inf).amax(dim=0)
        inner_low = torch.where(present, highs, torch.inf).amin(dim=0)
        return max(0.0, float((inner_high - inner_low).max())), min(1.0, float(most))

    return bounds


WORST_CASE_BOUNDS: dict[str, Callable[[Tensor, MetricContext, float], Bounds]] = {
    "min_recall": min_recall_bounds,
    "min_head_tail_recall": min_head_tail_recall_bounds,
    "cvar_recall": cvar_recall_bounds,
    "recall_gap": recall_gap_bounds,
    "min_coverage": min_coverage_bounds,
    "min_head_tail_coverage": min_head_tail_coverage_bounds,
    "worst_group_recall": worst_group_recall_bounds,
    **{key: group_gap_bounds(rates) for key, rates in GROUP_RATES.items()},
}
"""Metric -> (counts (K, K) or of cells (K A, K), context, alpha) -> lower and upper bound at level 1 - alpha."""
