"""Differences of gaps by loops over pairs of classes, and of groups; what pairing gains."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from selmix.groups import GROUP_RATES
from selmix.metrics import METRICS, MetricContext, Predictions
from selmix.statistics.gaps import group_gap_difference, recall_gap_difference
from selmix.statistics.proportions import normal_quantile
from selmix.statistics.worst_case import group_gap_bounds, recall_gap_bounds

CONTEXT = MetricContext(torch.tensor([300, 50, 5]), num_groups=2)


def pair(together: float, seed: int, each: int = 40) -> tuple[Predictions, Predictions]:
    """Three classes in two groups; class 2 and group 1 are weaker."""
    generator, labels = torch.Generator().manual_seed(seed), torch.arange(3).repeat_interleave(each)
    groups = torch.randint(2, labels.shape, generator=generator)
    recalls = 0.9 - 0.2 * (labels == 2) - 0.2 * groups
    ours, theirs = (torch.rand(len(labels), generator=generator) for _ in range(2))
    theirs = torch.where(torch.rand(len(labels), generator=generator) < together, ours, theirs)
    a, b = (
        Predictions(
            labels, torch.where(side < recalls, labels, (labels + 1) % 3), torch.ones(len(labels)), groups
        )
        for side in (ours, theirs)
    )
    return a, b


def lowest_over_pairs(rates: list[list[tuple[Tensor, Tensor]]], alpha: float) -> float:
    """Lowest limit of (a_k - a_l) - (b_k - b_l): hits of both models in each group, rate by rate."""
    z, low = normal_quantile(alpha / 2), 0.0
    for groups in rates:
        for k, (a_k, b_k) in enumerate(groups):
            for l, (a_l, b_l) in enumerate(groups):  # noqa: E741
                if k == l or not len(a_k) or not len(a_l):
                    continue
                d_k, d_l = (a_k.double() - b_k.double()), (a_l.double() - b_l.double())
                variance = float(d_k.var()) / len(d_k) + float(d_l.var()) / len(d_l)
                half = z * math.sqrt(variance + 2 / min(len(d_k), len(d_l)) ** 2)
                n = len(d_k) + len(d_l)
                low = min(low, float(d_k.mean() - d_l.mean()) * n / (n + 2) - half)
    return low


def mover(values: list[float], singles: list[tuple[float, float]]) -> tuple[float, float]:
    value = values[0] - values[1]
    return (
        value - math.hypot(values[0] - singles[0][0], singles[1][1] - values[1]),
        value + math.hypot(singles[0][1] - values[0], values[1] - singles[1][0]),
    )


@pytest.mark.parametrize("moved", [False, True])
def test_the_recall_gap_by_a_loop_over_pairs_of_classes(moved: bool) -> None:
    """Where the models agree pairing counts, where different classes are weak the two gaps apart."""
    a, b = pair(0.9, 0)
    if moved:
        # Class 0 is the weak one of theirs.
        b = Predictions(b.labels, (2 - b.predicted.flip(0)) % 3, b.confidence, b.groups)
    inside = [a.labels == k for k in range(3)]
    paired = lowest_over_pairs([[(a.correct[k], b.correct[k]) for k in inside]], 0.025)
    counts = [side.counts(3).double() for side in (a, b)]
    values = [side.value(METRICS["recall_gap"], CONTEXT) for side in (a, b)]
    apart = mover(values, [recall_gap_bounds(each, CONTEXT, 0.025) for each in counts])
    found = recall_gap_difference(a, b, CONTEXT, 0.05)
    value = values[0] - values[1]
    expected = (min(value, max(paired, apart[0])), max(value, min(-paired, apart[1])))
    assert found == pytest.approx(expected)
    assert (paired > apart[0]) == (not moved)


def rates_by_definition(key: str, a: Predictions, b: Predictions) -> list[list[tuple[Tensor, Tensor]]]:
    """Hits of both models by rate and group, from the definition of the gap."""
    assert a.groups is not None
    groups = [a.groups == g for g in range(2)]
    if key == "demographic_parity_gap":
        return [[(a.predicted[g] == m, b.predicted[g] == m) for g in groups] for m in range(3)]
    pairs = [(k, m) for k in range(3) for m in range(3) if key == "equalized_odds_gap" or k == m]
    return [
        [(a.predicted[g & (a.labels == k)] == m, b.predicted[g & (a.labels == k)] == m) for g in groups]
        for k, m in pairs
    ]


@pytest.mark.parametrize("key", list(GROUP_RATES))
@pytest.mark.parametrize("together", [0.0, 0.9])
def test_gaps_between_groups_by_a_loop(key: str, together: float) -> None:
    a, b = pair(together, 1)
    paired = lowest_over_pairs(rates_by_definition(key, a, b), 0.025)
    bounds = group_gap_bounds(GROUP_RATES[key])
    singles = [bounds(side.counts_for(key, CONTEXT).double(), CONTEXT, 0.025) for side in (a, b)]
    values = [side.value(METRICS[key], CONTEXT) for side in (a, b)]
    low, high = mover(values, singles)
    value = values[0] - values[1]
    expected = (min(value, max(paired, low)), max(value, min(-paired, high)))
    assert group_gap_difference(key, a, b, CONTEXT, 0.05) == pytest.approx(expected)


def test_a_group_without_samples_of_a_class_takes_no_part() -> None:
    a, b = pair(0.5, 2)
    assert a.groups is not None
    groups = a.groups.clone()
    groups[a.labels == 1] = 0
    a, b = (Predictions(p.labels, p.predicted, p.confidence, groups) for p in (a, b))
    for key in GROUP_RATES:
        low, high = group_gap_difference(key, a, b, CONTEXT, 0.05)
        assert -1.5 < low < high < 1.5


@pytest.mark.parametrize("limits", [recall_gap_difference, None])
def test_gaps_of_equal_models_are_held_and_narrower_where_they_agree(
    limits: Callable[[Predictions, Predictions, MetricContext, float], tuple[float, float]] | None,
) -> None:
    widths = []
    for together in (0.0, 0.9):
        width = 0.0
        for seed in range(15):
            a, b = pair(together, seed, 100)
            low, high = (
                limits(a, b, CONTEXT, 0.05)
                if limits is not None
                else group_gap_difference("equal_opportunity_gap", a, b, CONTEXT, 0.05)
            )
            assert low <= 0 <= high
            width += high - low
        widths.append(width)
    assert widths[1] < 0.7 * widths[0]
