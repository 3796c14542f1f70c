"""Bounds of the worst classes: their coverage by enumeration, and the value within them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selmix.groups import GROUP_RATES, stratum_labels
from selmix.metrics import METRICS, MetricContext
from selmix.statistics.constructions import CONSTRUCTIONS
from selmix.statistics.proportions import clopper_pearson, sidak
from selmix.statistics.worst_case import min_recall_bounds, worst_group_recall_bounds

CONTEXT = MetricContext(torch.tensor([9, 5, 1]), num_groups=2)
WORST_CASE = (
    "min_recall",
    "min_head_tail_recall",
    "cvar_recall",
    "recall_gap",
    "worst_group_recall",
    *GROUP_RATES,
)


def bounds_of(key: str, matrix: torch.Tensor, context: MetricContext, alpha: float) -> tuple[float, float]:
    bounds = CONSTRUCTIONS[key].of_counts
    assert bounds is not None
    return bounds(matrix, context, alpha)


def counts_of(hits: Sequence[float], trials: int) -> torch.Tensor:
    """A matrix with these hits, its misses in the next column."""
    matrix = torch.zeros(len(hits), len(hits), dtype=torch.float64)
    for k, hit in enumerate(hits):
        matrix[k, k], matrix[k, (k + 1) % len(hits)] = hit, trials - hit
    return matrix


@pytest.mark.parametrize("key", ["min_recall", "recall_gap", "cvar_recall", "min_head_tail_recall"])
@pytest.mark.parametrize("truth", [(0.9, 0.9, 0.9), (0.95, 0.5, 0.9), (0.5, 0.5, 0.5), (1.0, 0.99, 0.3)])
def test_the_bounds_hold_with_their_probability_summed_over_all_outcomes(
    key: str, truth: tuple[float, ...]
) -> None:
    """Three classes of five samples have 216 outcomes, each with its probability."""
    context, missed = MetricContext(torch.tensor([9, 5, 1])), 0.0
    true = float(METRICS[key].of(counts_of(truth, 1), context))
    for hits in itertools.product(range(6), repeat=3):
        chance = math.prod(
            math.comb(5, h) * p**h * (1 - p) ** (5 - h) for h, p in zip(hits, truth, strict=True)
        )
        low, high = bounds_of(key, counts_of(hits, 5), context, 0.05)
        missed += chance * (not low - 1e-9 <= true <= high + 1e-9)
    assert missed <= 0.05


def test_bounds_of_the_smallest_recall_by_hand() -> None:
    """The lower bound is the least of the classes' own; the upper one is Sidak-corrected for three classes."""
    matrix = counts_of((5, 18, 20), 20)
    hits, rows = matrix.diagonal(), matrix.sum(dim=1)
    low, _ = clopper_pearson(hits, rows, 0.025)
    _, high = clopper_pearson(hits, rows, sidak(0.025, 3))
    assert min_recall_bounds(matrix, CONTEXT, 0.05) == (float(low[0]), float(high[0]))


@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=6, max_size=6))
@settings(max_examples=30, deadline=None)
def test_the_value_lies_within_its_bounds_which_narrow_with_the_level(rows: list[list[int]]) -> None:
    cells = torch.tensor(rows, dtype=torch.float64)
    cells[::2] += 1.0  # every class has samples in group 0; the other cells may be empty
    for key in WORST_CASE:
        matrix = cells if METRICS[key].of_cells is not None else cells.view(3, 2, 3).sum(dim=1)
        value = float(METRICS[key].of(matrix, CONTEXT))
        wide, narrow = (bounds_of(key, matrix, CONTEXT, alpha) for alpha in (0.05, 0.5))
        assert wide[0] - 1e-9 <= value <= wide[1] + 1e-9, key
        assert wide[0] <= narrow[0] + 1e-9, key
        assert narrow[1] <= wide[1] + 1e-9, key


def test_cells_without_samples_take_no_part() -> None:
    cells = torch.tensor([[9.0, 1.0], [0.0, 0.0], [2.0, 8.0], [4.0, 6.0]], dtype=torch.float64)
    context = MetricContext(torch.tensor([5, 5]), num_groups=2)
    hits, rows = cells.gather(1, stratum_labels(2, 2).unsqueeze(1)).squeeze(1), cells.sum(dim=1)
    low, _ = clopper_pearson(hits[[0, 2, 3]], rows[[0, 2, 3]], 0.025)
    _, high = clopper_pearson(hits[[0, 2, 3]], rows[[0, 2, 3]], sidak(0.025, 3))
    assert worst_group_recall_bounds(cells, context, 0.05) == (float(low.min()), float(high.min()))
    for key in GROUP_RATES:
        low_gap, high_gap = bounds_of(key, cells, context, 0.05)
        assert 0.0 <= low_gap <= high_gap <= 1.0


@pytest.mark.parametrize("key", list(GROUP_RATES))
def test_a_gap_of_many_samples_is_known(key: str) -> None:
    """Group 0 is always right and group 1 never: with 10,000 samples each the bounds close in on the gap."""
    cells = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64) * 10_000
    if key == "demographic_parity_gap":
        cells[2:] = cells[:2]  # group 0 is predicted as class 0, group 1 as class 1
    low, high = bounds_of(key, cells, MetricContext(torch.tensor([5, 5]), num_groups=2), 0.05)
    assert 0.998 < low <= high == 1.0
