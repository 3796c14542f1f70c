"""Thresholds by group: an offset on every class's probability in each group, searched for a metric.

Deterministic: every sample of a group is decided by the same offsets. Rules that draw between two thresholds, as in
Hardt, Price and Srebro, "Equality of Opportunity in Supervised Learning", NeurIPS 2016, are no classifier to ship.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from selmix.groups import class_counts, strata_of
from selmix.metrics import MetricContext, compute_metric, metric_named
from selmix.statistics.selection import SelectionRule, violations

SWEEPS = 4  # rounds over all groups and classes, at most
CANDIDATES = 256  # offsets of one class in one group that are tried, at most
_NUMBERS = (
    2**22
)  # counts of all candidates of one line, at most: with many classes fewer candidates are tried

Rank = tuple[float, float, float]
"""Violation of the constraints, metric and mean recall, each so that more is better."""


def group_thresholds(
    probabilities: Tensor, labels: Tensor, groups: Tensor, rule: SelectionRule, context: MetricContext
) -> Tensor:
    """Search offsets by group and class for a metric on these samples, one coordinate at a time.

    Along each coordinate the points between two flips of a sample are tried. What violates the constraints of the
    search least is taken, of these the best metric, then the best mean recall, then the smallest change.

    Args:
        probabilities: shape (n, K).
        labels: shape (n,).
        groups: shape (n,).
        rule: the metric, and constraints of the search.
        context: of the metrics, with the number A of groups.
    Returns:
        Shape (A, K), float32; zeros for a group without samples, and where nothing is better than no offset.
    Raises:
        ValueError: no groups, or a metric that confusion counts do not determine.
    """
    if not context.num_groups:
        raise ValueError("thresholds by group need data with a group attribute")
    if metric_named(rule.metric).of_predictions is not None:
        raise ValueError(f"thresholds cannot be searched for {rule.metric}, which is no metric of counts")
    p, classes = probabilities.double().cpu(), probabilities.shape[1]
    labels, groups = labels.cpu(), groups.cpu()
    offsets = torch.zeros(context.num_groups, classes, dtype=torch.float64)
    rank = _ranking(rule, context)
    rows = strata_of(labels, groups, context.num_groups)
    reached = rank(_counts(rows, (p + offsets[groups]).argmax(dim=1), len(context.train_counts), context))[0]
    for _ in range(SWEEPS):
        before = reached
        for group in torch.unique(groups).tolist():
            # Of two classes the difference decides alone.
            for k in range(1 if classes == 2 else 0, classes):
                reached = _line_search_(p, rows, groups, offsets, group, k, reached, rank, context)
        if reached == before:
            break
    return offsets.float()


def _line_search_(
    p: Tensor, rows: Tensor, groups: Tensor, offsets: Tensor, group: int, k: int, reached: Rank,
    rank: Callable[[Tensor], list[Rank]], context: MetricContext,
) -> Rank:  # fmt: skip
    """Move one offset in place to the best point of its line; the rank that is reached."""
    classes, members = p.shape[1], groups == group
    shifted = p[members] + offsets[group]
    shifted[:, k] = -torch.inf
    rival, runner_up = shifted.max(dim=1)
    flips = torch.unique(rival - p[members][:, k])
    points = torch.cat([flips[:1] - 0.5, (flips[1:] + flips[:-1]) / 2.0, flips[-1:] + 0.5])
    most = max(2, min(CANDIDATES, _NUMBERS // (classes * classes * context.num_groups)))
    if len(points) > most:
        points = points[torch.linspace(0, len(points) - 1, most).round().long()]
    rest = _counts(rows[~members], (p + offsets[groups])[~members].argmax(dim=1), classes, context)
    predicted = torch.where(
        points.unsqueeze(1) > (rival - p[members][:, k]).unsqueeze(0), k, runner_up.unsqueeze(0)
    )
    entries = rows[members].unsqueeze(0) * classes + predicted
    counts = rest.flatten().repeat(len(points), 1)
    counts.scatter_add_(1, entries, torch.ones_like(entries, dtype=counts.dtype))
    ranks = rank(counts.view(len(points), -1, classes))
    change = (points - offsets[group, k]).abs().tolist()
    best = max(range(len(points)), key=lambda index: (ranks[index], -change[index]))
    # An offset stays where the best point only ties: offsets that would change nothing remain 0.
    if ranks[best] <= reached:
        return reached
    offsets[group, k] = points[best]
    return ranks[best]


def _counts(rows: Tensor, predicted: Tensor, classes: int, context: MetricContext) -> Tensor:
    height = classes * context.num_groups
    return (
        torch.bincount(rows * classes + predicted, minlength=height * classes).double().view(height, classes)
    )


def _ranking(rule: SelectionRule, context: MetricContext) -> Callable[[Tensor], list[Rank]]:
    def value(key: str, cells: Tensor) -> Tensor:
        of_groups = metric_named(key).of_cells is not None
        return compute_metric(key, cells if of_groups else class_counts(cells, context.num_groups), context)

    def rank(cells: Tensor) -> list[Rank]:
        """Ranks of counts (..., K A, K), one by one."""
        cells = cells.view(-1, *cells.shape[-2:])
        missed = violations(rule.constraints, cells, context)
        metric = metric_named(rule.metric).sign * value(rule.metric, cells)
        means = value("mean_recall", cells)
        return list(zip((-missed).tolist(), metric.tolist(), means.tolist(), strict=True))

    return rank
