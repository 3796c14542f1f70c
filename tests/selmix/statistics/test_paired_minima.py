"""Differences of minima on the same samples: bounds that hold, and that know of the pairing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selmix.metrics import METRICS, MetricContext, Predictions
from selmix.statistics.comparison import paired_difference
from selmix.statistics.paired_minima import (
    SPLIT,
    correlations,
    least_mean_difference,
    paired_squares,
    recalls_of,
)

WEAK = [0.95] * 9 + [0.6]
CASES: dict[str, tuple[list[float], list[float]]] = {
    "alike, one weak": (WEAK, WEAK),
    "alike, all weak": ([0.6] * 10, [0.6] * 10),
    "one weak, all weak": (WEAK, [0.6] * 10),
    "near the top": ([0.95] * 10, [1.0] * 9 + [0.95]),
    "another class weak": ([0.6, 0.95], [0.95, 0.6]),
    "the weak one weaker": ([0.95] * 9 + [0.7], [0.95] * 9 + [0.5]),
    "one class": ([0.8], [0.8]),
    "two classes": ([0.9, 0.6], [0.9, 0.6]),
}


def pair(
    truths: tuple[list[float], list[float]], samples: int, together: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Labels and hits of two models, which share the luck of a sample with probability ``together``."""
    labels = torch.arange(len(truths[0])).repeat_interleave(samples)
    ours, theirs = (torch.rand(len(labels), generator=generator) for _ in range(2))
    shared = torch.rand(len(labels), generator=generator) < together
    a, b = (torch.tensor(truth)[labels] for truth in truths)
    return labels, ours < a, torch.where(shared, ours, theirs) < b


def misses(
    truths: tuple[list[float], list[float]], samples: int, together: float, repetitions: int, size: int = 1
) -> tuple[float, float]:
    """Share of the 95 % intervals without the true difference, and their mean half-width; parts of ``size`` classes."""
    generator, parts = torch.Generator().manual_seed(0), torch.arange(len(truths[0])) // size
    ours_true, theirs_true = (torch.tensor(truth).view(-1, size).mean(1).min() for truth in truths)
    true, missed, width = float(ours_true - theirs_true), 0, 0.0
    for _ in range(repetitions):
        labels, ours, theirs = pair(truths, samples, together, generator)
        low, high = least_mean_difference(labels, parts, ours, theirs, 0.05)
        missed += not low - 1e-6 <= true <= high + 1e-6
        width += (high - low) / 2 / repetitions
    return missed / repetitions, width


@pytest.mark.parametrize("together", [0.0, 0.9])
@pytest.mark.parametrize("case", list(CASES))
def test_the_bounds_hold(case: str, together: float) -> None:
    # 60 draws: at true misses of 0.05 there are more than 8 of them with probability 0.004.
    assert misses(CASES[case], 24, together, 60)[0] <= 8 / 60


@pytest.mark.parametrize("truths", [(WEAK, WEAK), (WEAK, WEAK[::-1]), ([0.8] * 10, [0.8] * 10)])
def test_the_bounds_of_means_hold(truths: tuple[list[float], list[float]]) -> None:
    """Head and tail: two parts of five classes each."""
    for together in (0.0, 0.9):
        assert misses(truths, 24, together, 60, size=5)[0] <= 8 / 60


@pytest.mark.long
@pytest.mark.parametrize("samples", [12, 24, 100])
@pytest.mark.parametrize("case", list(CASES))
def test_the_bounds_hold_at_length(case: str, samples: int) -> None:
    for together in (0.0, 0.5, 0.9):
        # 0.02: three errors of 1000 draws
        assert misses(CASES[case], samples, together, 1000)[0] <= 0.053 + 0.02, together


def test_models_that_agree_are_distinguished_by_fewer_samples() -> None:
    apart, together = (misses(CASES["alike, one weak"], 100, share, 20)[1] for share in (0.0, 0.9))
    assert together < 0.4 * apart


def test_of_one_class_it_is_newcombe() -> None:
    """Statistics in Medicine 17, 1998, 2635: of 50 pairs 36, 12, 2 and 0; method 10 gives 0.0569 to 0.3404."""
    ours = torch.tensor([1] * 36 + [1] * 12 + [0] * 2, dtype=torch.bool)
    theirs = torch.tensor([1] * 36 + [0] * 12 + [1] * 2, dtype=torch.bool)
    one = torch.zeros(1, dtype=torch.int64)
    bounds = least_mean_difference(one.expand(50), one, ours, theirs, 0.05 / SPLIT)
    assert bounds == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_correlations() -> None:
    labels = torch.tensor([0] * 4 + [1] * 4)
    ours = torch.tensor([1, 1, 0, 0, 1, 1, 1, 1], dtype=torch.bool)
    assert correlations(labels, ours, ours, 2).tolist() == [1.0, 0.0]  # of the second, one without spread
    assert correlations(labels, ours, ~ours, 2).tolist() == [-1.0, 0.0]
    # the covariance 0.25 less 1 / 8, over 0.25
    assert correlations(labels, ours, ours, 2, 0.125).tolist() == [0.5, 0.0]


def test_every_minimum_lies_within_its_bounds() -> None:
    generator = torch.Generator().manual_seed(0)
    context = MetricContext(train_counts=torch.tensor([40, 30, 20, 10, 5]), num_groups=2)
    labels = torch.arange(5).repeat_interleave(20)
    groups = torch.randint(2, labels.shape, generator=generator)
    groups[labels == 3] = 1  # a cell without samples
    a, b = (
        Predictions(
            labels,
            torch.where(torch.rand(100, generator=generator) < 0.8, labels, (labels + 1) % 5),
            torch.full((100,), 0.5),
            groups,
        )
        for _ in range(2)
    )
    for key in ("min_recall", "min_head_tail_recall", "worst_group_recall", "min_precision", "min_coverage"):
        gap, back = (paired_difference(key, [x], [y], context) for x, y in ((a, b), (b, a)))
        plain = [float(METRICS[key].of(each.counts_for(key, context).double(), context)) for each in (a, b)]
        assert gap.value == pytest.approx(plain[0] - plain[1])
        assert gap.low < gap.value < gap.high
        assert (gap.low, gap.high) == pytest.approx((-back.high, -back.low))


def test_recalls_and_correlations_by_a_loop() -> None:
    """Strata out of order, one of them without samples."""
    g = torch.Generator().manual_seed(0)
    strata = torch.tensor([0, 1, 3])[torch.randint(3, (60,), generator=g)]
    ours, theirs = (torch.rand(60, generator=g) < 0.7 for _ in range(2))
    found, phi = recalls_of(strata, ours, 4), correlations(strata, ours, theirs, 4)
    for s in (0, 1, 3):
        x, y = ours[strata == s].double(), theirs[strata == s].double()
        assert float(found[s]) == pytest.approx(float(x.mean()))
        assert float(phi[s]) == pytest.approx(float(torch.corrcoef(torch.stack([x, y]))[0, 1]))
    assert found[2].isnan()
    assert float(phi[2]) == 0.0


@pytest.mark.parametrize(("phi", "expected"), [(0.0, 0.05), (1.0, 0.01), (-1.0, 0.09), (0.5, 0.03)])
def test_a_paired_margin_is_the_law_of_cosines(phi: float, expected: float) -> None:
    down, up = (torch.tensor([x], dtype=torch.float64) for x in (0.1, 0.2))
    assert float(paired_squares(down, up, torch.tensor([phi]))) == pytest.approx(expected)
    assert float(paired_squares(down, down, torch.tensor([1.0 + 1e-12], dtype=torch.float64))) == 0.0


def test_bounds_change_sign_with_the_sides_and_ignore_numbers_and_order() -> None:
    labels, ours, theirs = pair((WEAK[5:], [0.7] * 5), 20, 0.5, torch.Generator().manual_seed(1))
    parts = torch.tensor([0, 0, 1, 1, 1])
    bounds = least_mean_difference(labels, parts, ours, theirs, 0.05)
    back = least_mean_difference(labels, parts, theirs, ours, 0.05)
    assert back == pytest.approx((-bounds[1], -bounds[0]))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))
    assert least_mean_difference(labels[order], parts, ours[order], theirs[order], 0.05) == pytest.approx(
        bounds
    )
    spread = torch.full(
        (13,), 9
    )  # strata numbered 3 k, the others without samples; parts numbered with a gap
    spread[torch.arange(5) * 3] = torch.tensor([2, 2, 7, 7, 7])
    assert least_mean_difference(3 * labels, spread, ours, theirs, 0.05) == pytest.approx(bounds)


@given(st.integers(0, 500))
@settings(max_examples=20, deadline=None)
def test_a_model_against_itself_has_bounds_around_nothing_that_narrow_with_the_level(seed: int) -> None:
    labels, ours, theirs = pair(
        ([0.9, 0.7, 0.8], [0.6, 0.9, 0.8]), 12, 0.3, torch.Generator().manual_seed(seed)
    )
    parts = torch.arange(3)
    low, high = least_mean_difference(labels, parts, ours, ours, 0.05)
    assert low == -high <= 0.0
    wide, narrow = (least_mean_difference(labels, parts, ours, theirs, alpha) for alpha in (0.01, 0.3))
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]
