"""Metrics of groups, computed on the confusion of (class, group) cells, the strata of data with a group attribute.

A stratum is class * A + group, so the confusion of cells has shape (..., K A, K). Cells and groups without samples are
left out of every maximum and minimum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from selmix.confusion import recalls


def stratum_labels(num_classes: int, num_groups: int) -> Tensor:
    """Class of each stratum, shape (K A,)."""
    return torch.arange(num_classes).repeat_interleave(num_groups)


def strata_of(labels: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Stratum of each sample.

    Args:
        labels: class of each sample, shape (n,).
        groups: group of each sample, shape (n,).
        num_groups: A.
    Returns:
        Shape (n,).
    """
    return labels * num_groups + groups


def class_counts(cells: Tensor, num_groups: int) -> Tensor:
    """Sum the cells (..., K A, K) over the groups of each class; shape (..., K, K)."""
    return _split_rows(cells, num_groups).sum(dim=-2)


def worst_group_recall(cells: Tensor, num_groups: int) -> Tensor:
    """Smallest recall of a (class, group) cell."""
    labels = stratum_labels(cells.shape[-1], num_groups)
    # The recall of an empty cell is NaN; as 1 it is never the smallest.
    return recalls(cells, labels).nan_to_num(nan=1.0).amin(dim=-1)


def equal_opportunity_gap(cells: Tensor, num_groups: int) -> Tensor:
    """Largest spread over the groups of a class's recall, max_k (max_a - min_a) recall of class k in group a.

    With two classes only the positive one, class 1, counts.

    Source: Hardt, Price and Srebro, "Equality of Opportunity in Supervised Learning", NeurIPS 2016.
    """
    return spread(*opportunity_rates(cells, num_groups))


def equalized_odds_gap(cells: Tensor, num_groups: int) -> Tensor:
    """Largest spread over the groups of P(l | k, a): max over true k and predicted l of (max_a - min_a).

    With two classes this is the larger of the gaps in true and false positive rates.
    Source: Hardt, Price and Srebro, "Equality of Opportunity in Supervised Learning", NeurIPS 2016.
    """
    return spread(*odds_rates(cells, num_groups))


def one_vs_rest_odds_gap(cells: Tensor, num_groups: int) -> Tensor:
    """Largest spread over the groups of a class's true or false positive rate, each class against the rest.

    The false positive rate of class l is the share of the samples of all other classes that are predicted as l: where
    :func:`equalized_odds_gap` compares one true class at a time, errors of several add up here. With two classes both
    are the same.
    """
    return spread(*one_vs_rest_rates(cells, num_groups))


def demographic_parity_gap(cells: Tensor, num_groups: int) -> Tensor:
    """Largest spread over the groups of P(l | a): max over predicted classes l of (max_a - min_a).

    Source: Dwork et al., "Fairness Through Awareness", ITCS 2012.
    """
    return spread(*parity_rates(cells, num_groups))


Rates = tuple[Tensor, Tensor]
"""Hits and trials of M proportions that are compared between A groups, each of shape (..., A, M)."""


def opportunity_rates(cells: Tensor, num_groups: int) -> Rates:
    """Hits and samples of each class by group."""
    by_group = _by_group(cells, num_groups)
    # The diagonal of each group's (K, K) matrix holds the hits.
    hits, rows = by_group.diagonal(dim1=-2, dim2=-1), by_group.sum(dim=-1)
    return (hits[..., 1:], rows[..., 1:]) if cells.shape[-1] == 2 else (hits, rows)


def odds_rates(cells: Tensor, num_groups: int) -> Rates:
    """Predictions of each class, and samples, by true class and group."""
    by_group = _by_group(cells, num_groups)
    rows = by_group.sum(dim=-1, keepdim=True).expand_as(by_group)
    return by_group.flatten(-2), rows.flatten(-2)


def one_vs_rest_rates(cells: Tensor, num_groups: int) -> Rates:
    """Hits and samples of each class, then false positives of each class and samples of all others, by group."""
    by_group = _by_group(cells, num_groups)
    hits, rows = by_group.diagonal(dim1=-2, dim2=-1), by_group.sum(dim=-1)
    return (
        torch.cat([hits, by_group.sum(dim=-2) - hits], dim=-1),
        torch.cat([rows, rows.sum(dim=-1, keepdim=True) - rows], dim=-1),
    )


def parity_rates(cells: Tensor, num_groups: int) -> Rates:
    """Predictions of each class and samples by group."""
    predicted = _by_group(cells, num_groups).sum(dim=-2)
    return predicted, predicted.sum(dim=-1, keepdim=True).expand_as(predicted)


def spread(hits: Tensor, trials: Tensor) -> Tensor:
    """Largest difference of a proportion between groups, over all proportions; shape (...)."""
    present = trials > 0
    # Divided by 1 where there are no trials: a NaN there would spoil the gradient even though `where` drops it.
    rates = hits / torch.where(present, trials, 1.0)
    high = torch.where(present, rates, -torch.inf).amax(dim=-2)
    low = torch.where(present, rates, torch.inf).amin(dim=-2)
    # A proportion without trials in any group gives -inf minus inf: it counts as no gap.
    return (high - low).clamp_min(0.0).amax(dim=-1)


def _by_group(cells: Tensor, num_groups: int) -> Tensor:
    """(..., K A, K) as (..., A, K, K)."""
    return _split_rows(cells, num_groups).transpose(-3, -2)


def _split_rows(cells: Tensor, num_groups: int) -> Tensor:
    """(..., K A, K) as (..., K, A, K)."""
    return cells.reshape(*cells.shape[:-2], -1, num_groups, cells.shape[-1])


GROUP_RATES = {
    "equal_opportunity_gap": opportunity_rates,
    "equalized_odds_gap": odds_rates,
    "one_vs_rest_odds_gap": one_vs_rest_rates,
    "demographic_parity_gap": parity_rates,
}
"""Key of a gap -> the proportions that it is the spread of."""
