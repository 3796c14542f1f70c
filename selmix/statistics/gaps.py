"""Limits of the difference of two models' gaps: of recalls between classes, of rates between groups.

A gap is the largest difference of two rates. Where (k, l) attains the gap of theirs, ours is at least its own
difference of k and l; so the lowest, over all pairs, of the lower limits of (a_k - a_l) - (b_k - b_l) holds for the
difference of the gaps, with no correction for their number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from selmix.confusion import confusion_counts
from selmix.groups import GROUP_RATES, Rates, spread
from selmix.metrics import MetricContext, Predictions
from selmix.statistics.proportions import Bounds, mover_difference, normal_quantile
from selmix.statistics.worst_case import group_gap_bounds, recall_gap_bounds


def recall_gap_difference(a: Predictions, b: Predictions, context: MetricContext, alpha: float) -> Bounds:
    """Limits of the difference a - b of the largest recall minus the smallest.

    Args:
        a: one model.
        b: the other, on the same samples.
        context: of the metric.
        alpha: 1 - the joint level of both limits.
    """
    classes = len(context.train_counts)
    counts = [side.counts(classes).double() for side in (a, b)]
    both = torch.bincount(a.labels[a.correct & b.correct], minlength=classes).double()
    rows = counts[0].sum(dim=1)
    # Classes stand for groups here: one rate, compared between all of them.
    hits = [each.diagonal().unsqueeze(1) for each in counts]
    paired = _paired(hits[0], hits[1], both.unsqueeze(1), rows.unsqueeze(1), alpha / 2.0)
    singles = (
        recall_gap_bounds(counts[0], context, alpha / 2.0), recall_gap_bounds(counts[1], context, alpha / 2.0)
    )  # fmt: skip
    values = (float(spread(hits[0], rows.unsqueeze(1))), float(spread(hits[1], rows.unsqueeze(1))))
    return _sharper(paired, values, singles)


def group_gap_difference(
    key: str, a: Predictions, b: Predictions, context: MetricContext, alpha: float
) -> Bounds:
    """Limits of the difference a - b of a largest difference between groups.

    Args:
        key: of GROUP_RATES.
        a: one model.
        b: the other, on the same samples.
        context: of the metric; it gives the number of groups.
        alpha: 1 - the joint level of both limits.
    """
    rates_of: Callable[[Tensor, int], Rates] = GROUP_RATES[key]
    groups, classes = context.num_groups, len(context.train_counts)
    cells = [side.counts_for(key, context).double() for side in (a, b)]
    same = a.predicted == b.predicted
    together = confusion_counts(
        a.strata(groups)[same], a.predicted[same], classes * groups, classes
    ).double()  # fmt: skip
    (hits_a, trials), (hits_b, _) = (rates_of(each, groups) for each in cells)
    paired = _paired(hits_a, hits_b, rates_of(together, groups)[0], trials, alpha / 2.0)
    bounds = group_gap_bounds(rates_of)
    singles = bounds(cells[0], context, alpha / 2.0), bounds(cells[1], context, alpha / 2.0)
    values = float(spread(hits_a, trials)), float(spread(hits_b, trials))
    return _sharper(paired, values, singles)


def _paired(hits_a: Tensor, hits_b: Tensor, both: Tensor, trials: Tensor, alpha: float) -> Bounds:
    """Lowest lower and highest upper limit of (a_k - a_l) - (b_k - b_l), over all pairs of groups and all rates.

    Args:
        hits_a: of one model, shape (A, M).
        hits_b: of the other, shape (A, M).
        both: hits of both, shape (A, M).
        trials: shape (A, M).
        alpha: 1 - the joint level of both limits.
    """
    present = trials > 0
    n = trials.clamp_min(1.0)
    difference = (hits_a - hits_b) / n
    apart = hits_a + hits_b - 2.0 * both
    within = (apart / n - difference.square()) * n / (n - 1.0).clamp_min(1.0)
    variance = torch.where(present, within.clamp_min(0.0) / n, 0.0)
    z, low = normal_quantile(alpha / 2.0), 0.0
    # By rate: a matrix of pairs for each, and all rates at once would take A^2 M numbers.
    for m in range(hits_a.shape[1]):
        inside = present[:, m]
        d, v, size = difference[inside, m], variance[inside, m], n[inside, m]
        if len(d) < 2:
            continue
        largest = 1.0 / torch.minimum(size.unsqueeze(1), size.unsqueeze(0))
        samples = size.unsqueeze(1) + size.unsqueeze(0)
        half = z * (v.unsqueeze(1) + v.unsqueeze(0) + 2.0 * largest.square()).sqrt()
        limits = (d.unsqueeze(1) - d.unsqueeze(0)) * samples / (samples + 2.0) - half
        limits.fill_diagonal_(torch.inf)
        low = min(low, float(limits.min()))
    # Exchanging k and l turns lower into upper limits: the pairs are the same.
    return low, -low


def _sharper(paired: Bounds, values: tuple[float, float], singles: tuple[Bounds, Bounds]) -> Bounds:
    """The higher lower and the lower upper of two pairs of limits, each at alpha / 2."""
    value, (low, high) = values[0] - values[1], mover_difference(values, singles)
    return min(value, max(paired[0], low)), max(value, min(paired[1], high))
