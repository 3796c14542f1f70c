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

from selmix.binomial import clopper_pearson, mean_limits, sidak
from selmix.definitions import cvar_of_recalls
from selmix.groups import GROUP_RATES, Rates, stratum_labels
from selmix.metrics import MetricContext

Limits = tuple[float, float]


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
    "worst_group_recall": worst_group_recall_limits,
    **{key: group_gap_limits(rates) for key, rates in GROUP_RATES.items()},
}
"""Metric -> (counts (K, K) or cells (K A, K), context, alpha) -> lower and upper limit at level 1 - alpha."""
