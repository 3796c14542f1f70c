"""Limits of metrics that follow the worst classes: minima, the mean of the worst, the gap.

Such a metric is biased on a sample (the smallest of noisy recalls is too small) and stands still when one recall moves
alone, so limits that move one class at a time collapse: they covered the truth in 0 to 8 % of simulated cases with
classes alike. Here the lower limit of a minimum over sets of classes is the smallest of the sets' own limits, since
the set that attains the true minimum misses its own with probability alpha / 2 at most; the other limits are those of
all classes at once (Sidak), put into the metric, which is monotone in every recall.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from selmix.definitions import cvar_of_recalls
from selmix.groups import GROUP_RATES, Rates, stratum_labels
from selmix.metrics import MetricContext
from selmix.statistics.proportions import clopper_pearson, mean_limits, sidak

Limits = tuple[float, float]
_PRIOR_COUNTS = 0.5


def min_recall_limits(counts: Tensor, context: MetricContext, alpha: float) -> Limits:
    """Exact limits of the smallest recall at joint level 1 - alpha."""
    hits, rows = counts.diagonal(), counts.sum(dim=1)
    low, _ = clopper_pearson(hits, rows, alpha / 2.0)
    _, high = clopper_pearson(hits, rows, sidak(alpha / 2.0, len(rows)))
    return float(low.min()), float(high.min())


def min_head_tail_recall_limits(counts: Tensor, context: MetricContext, alpha: float) -> Limits:
    """Limits of the smaller of two group means: those of a minimum, with the limits of a mean for each group."""
    rows, tail = counts.sum(dim=1), context.tail.to(counts.device)
    means = counts.diagonal() / rows
    lows, highs = [], []
    for group in (~tail, tail):
        shares = group.double() / group.sum()
        lows.append(mean_limits(shares, means, rows, alpha / 2.0)[0])
        highs.append(mean_limits(shares, means, rows, sidak(alpha / 2.0, 2))[1])
    return min(lows), min(highs)


def cvar_recall_limits(counts: Tensor, context: MetricContext, alpha: float) -> Limits:
    """Limits of the mean of the worst recalls, the minimum over all sets of so many classes.

    Every set's lower limit is at least that of the observed worst with the fewest samples of any set.
    """
    rows, fraction = counts.sum(dim=1), context.definitions.cvar_fraction
    means = counts.diagonal() / rows
    amount = max(1.0, fraction * len(rows))
    shares = (amount - torch.arange(len(rows), dtype=torch.float64)).clamp(0.0, 1.0) / amount
    low, _ = mean_limits(shares, means.sort().values, rows.sort().values, alpha / 2.0)
    _, highs = clopper_pearson(counts.diagonal(), rows, sidak(alpha / 2.0, len(rows)))
    return low, float(cvar_of_recalls(highs, fraction))


def recall_gap_limits(counts: Tensor, context: MetricContext, alpha: float) -> Limits:
    """Limits of the largest recall minus the smallest from limits of all classes at once."""
    hits, rows = counts.diagonal(), counts.sum(dim=1)
    low, high = clopper_pearson(hits, rows, sidak(alpha / 2.0, len(rows)))
    return max(0.0, float(low.max() - high.min())), float(high.max() - low.min())


def min_coverage_limits(counts: Tensor, context: MetricContext, alpha: float) -> Limits:
    """Limits of the smallest coverage."""
    return _least_coverage_limits(counts, torch.eye(counts.shape[1], dtype=torch.float64), alpha)


def min_head_tail_coverage_limits(counts: Tensor, context: MetricContext, alpha: float) -> Limits:
    """Limits of the smaller of head's and tail's mean coverage."""
    tail = context.tail.to(counts.device)
    return _least_coverage_limits(counts, torch.stack([~tail, tail]).double(), alpha)


def _least_coverage_limits(counts: Tensor, members: Tensor, alpha: float) -> Limits:
    """Limits of the least mean coverage of groups of classes: those of a minimum, with score limits for each group.

    A coverage is a sum over rows of binomial counts, whose variances add up. They are nearly in proportion to the
    coverage itself, so a limit v is where the observed value lies z sqrt(variance at v) away, as in Wilson's interval.

    Args:
        counts: shape (K, K). members: of the groups, 0 or 1, shape (G, K).
    """
    rows, scale = counts.sum(dim=1, keepdim=True), members.sum(dim=1) * counts.sum()
    # Half a count spread over each row: a group that is never predicted has a variance too.
    shares = ((counts + _PRIOR_COUNTS / counts.shape[1]) / (rows + _PRIOR_COUNTS)) @ members.T
    near = (rows * shares).sum(dim=0) / scale
    per_unit = (rows * shares * (1.0 - shares)).sum(dim=0).clamp_min(0.0) / scale.square() / near
    values = (counts @ members.T).sum(dim=0) / scale

    def limits(alpha: float, side: float) -> Tensor:
        step = side * _normal_quantile(alpha) * per_unit.sqrt()
        return ((step + (step.square() + 4.0 * values).sqrt()) / 2.0).square()

    low, high = limits(alpha / 2.0, -1.0), limits(sidak(alpha / 2.0, len(members)), 1.0)
    return float(low.min()), float(high.min())


def _normal_quantile(alpha: float) -> float:
    """The distance in standard deviations that a normal variable exceeds with probability ``alpha``."""
    return -float(torch.special.ndtri(torch.tensor(alpha, dtype=torch.float64)))


def worst_group_recall_limits(cells: Tensor, context: MetricContext, alpha: float) -> Limits:
    """Exact limits of the smallest recall of a cell, those of :func:`min_recall_limits` over the cells with samples."""
    labels = stratum_labels(cells.shape[1], context.num_groups)
    rows = cells.sum(dim=1)
    hits = cells.gather(1, labels.unsqueeze(1)).squeeze(1)[rows > 0]
    rows = rows[rows > 0]
    low, _ = clopper_pearson(hits, rows, alpha / 2.0)
    _, high = clopper_pearson(hits, rows, sidak(alpha / 2.0, len(rows)))
    return float(low.min()), float(high.min())


def group_gap_limits(
    rates_of: Callable[[Tensor, int], Rates],
) -> Callable[[Tensor, MetricContext, float], Limits]:
    """Limits of a largest difference between groups, from limits of all its proportions at once."""

    def limits(cells: Tensor, context: MetricContext, alpha: float) -> Limits:
        hits, trials = rates_of(cells, context.num_groups)
        present = trials > 0
        low, high = clopper_pearson(hits[present], trials[present], sidak(alpha / 2.0, int(present.sum())))
        lows, highs = torch.full_like(hits, torch.inf), torch.full_like(hits, -torch.inf)
        lows[present], highs[present] = low, high
        most = (highs.amax(dim=0) - lows.amin(dim=0)).max()
        inner_high = torch.where(present, lows, -torch.inf).amax(dim=0)
        inner_low = torch.where(present, highs, torch.inf).amin(dim=0)
        return max(0.0, float((inner_high - inner_low).max())), min(1.0, float(most))

    return limits


WORST_CASE_LIMITS: dict[str, Callable[[Tensor, MetricContext, float], Limits]] = {
    "min_recall": min_recall_limits,
    "min_head_tail_recall": min_head_tail_recall_limits,
    "cvar_recall": cvar_recall_limits,
    "recall_gap": recall_gap_limits,
    "min_coverage": min_coverage_limits,
    "min_head_tail_coverage": min_head_tail_coverage_limits,
    "worst_group_recall": worst_group_recall_limits,
    **{key: group_gap_limits(rates) for key, rates in GROUP_RATES.items()},
}
"""Metric -> (counts (K, K) or cells (K A, K), context, alpha) -> lower and upper limit at level 1 - alpha."""
