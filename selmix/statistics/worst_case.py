"""Confidence bounds of metrics that follow the worst classes: minima of recalls, and gaps.

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

from selmix.groups import Rates, stratum_labels
from selmix.metrics import MetricContext
from selmix.statistics.means import mean_limits
from selmix.statistics.proportions import Bounds, clopper_pearson, sidak


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
    hits = counts.diagonal()
    lows, highs = [], []
    for group in (~tail, tail):
        shares = group.double() / group.sum()
        # Only the upper bounds are corrected: they must hold for both groups at once, see the top of this file.
        lows.append(mean_limits(shares, hits, rows, alpha / 2.0)[0])
        highs.append(mean_limits(shares, hits, rows, sidak(alpha / 2.0, 2))[1])
    return min(lows), min(highs)


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
