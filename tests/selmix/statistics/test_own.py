"""Limits of a user's own metric: against those that are known, against simulation, and none where none are known."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.size_study import Cell, misses
from selmix.metric_keys import is_fraction, is_own
from selmix.metrics import MetricContext, Predictions
from selmix.statistics.comparison import mean_over_replicates, paired_difference
from selmix.statistics.intervals import Estimate, counts_interval
from selmix.statistics.own import own_bounds, own_influence, with_pseudo_samples
from selmix.statistics.proportions import normal_quantile, student_quantile
from selmix.statistics.selection import score_of_counts
from selmix.statistics.verdict import default_margin, is_minimum

CONTEXT = MetricContext(torch.tensor([10, 10]))


def accuracy(confusion: Tensor) -> Tensor:
    return confusion.diagonal().sum() / confusion.sum()


def mean_recall(confusion: Tensor) -> Tensor:
    return (confusion.diagonal() / confusion.sum(1)).mean()


def centred(confusion: Tensor) -> Tensor:
    """Between -100 and 100."""
    return 200.0 * mean_recall(confusion) - 100.0


def least(confusion: Tensor) -> Tensor:
    return (confusion.diagonal() / confusion.sum(1)).min()


def good_classes(confusion: Any) -> Any:
    """A step function."""
    confusion = np.asarray(confusion)
    return np.mean(np.diag(confusion) / confusion.sum(axis=1) > 0.9)


def macro_f1(confusion: Tensor) -> Tensor:
    return (2.0 * confusion.diagonal() / (confusion.sum(0) + confusion.sum(1))).mean()


@pytest.fixture(autouse=True)
def users_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("users_limits")
    functions = (accuracy, mean_recall, centred, least, good_classes, macro_f1)
    vars(module).update({each.__name__: each for each in functions})
    monkeypatch.setitem(sys.modules, "users_limits", module)


def models(shared: float, samples: int = 24, classes: int = 10, recall: float = 0.8) -> list[Predictions]:
    cell = Cell("mean_recall", "paired", classes, str(samples), f"alike:{recall}", correlation=shared)
    ours, theirs = cell.draw(torch.Generator().manual_seed(4))
    return [ours[0], theirs[0]]


@pytest.mark.parametrize("hits", [0, 3, 17, 20])
def test_the_limits_of_a_proportion_are_those_of_agresti_and_coull(hits: int) -> None:
    """Accuracy over two rows of equal recall is one proportion."""
    n, z = 40, normal_quantile(0.025)
    counts = torch.tensor([[hits, 20 - hits], [20 - hits, hits]], dtype=torch.float64)
    near = (2 * hits + z**2 / 2) / (n + z**2)
    # Of two rows alike, each has half of the variance.
    half = student_quantile(n + z**2 - 2, 0.05) * (near * (1 - near) / (n + z**2)) ** 0.5
    assert own_bounds("users_limits:accuracy", counts, CONTEXT, 0.05) == pytest.approx(
        (near - half, near + half), abs=1e-6
    )


def test_limits_are_not_cut_at_the_ends_of_a_fraction() -> None:
    counts = torch.tensor([[20.0, 0.0], [0.0, 20.0]])
    interval = counts_interval("users_limits:mean_recall", counts, CONTEXT)
    assert interval.low < interval.value == 1.0 < interval.high
    plain = counts_interval("users_limits:mean_recall", torch.tensor([[18.0, 2.0], [1.0, 19.0]]), CONTEXT)
    scaled = counts_interval("users_limits:centred", torch.tensor([[18.0, 2.0], [1.0, 19.0]]), CONTEXT)
    assert (scaled.low, scaled.high) == pytest.approx((200 * plain.low - 100, 200 * plain.high - 100))


def test_means_over_seeds_are_not_cut_either() -> None:
    seeds = [Estimate(0.9, 0.7, 1.0), Estimate(0.2, 0.0, 0.4)]
    assert mean_over_replicates("macro_f1", seeds).low == 0.0
    assert mean_over_replicates("users_limits:macro_f1", seeds).low < 0.0


@pytest.mark.parametrize("name", ["mean_recall", "macro_f1"])
def test_a_difference_is_judged_as_that_of_the_metric_of_the_same_formula(name: str) -> None:
    context = MetricContext(torch.ones(10))
    ours, theirs = models(0.5)
    own, known = (paired_difference(key, [ours], [theirs], context) for key in (f"users_limits:{name}", name))
    assert own.value == pytest.approx(known.value)
    # The influence is taken at shrunk rows here.
    assert (own.low, own.high) == pytest.approx((known.low, known.high), abs=2e-3)
    crossed, plain = (
        paired_difference(key, [ours, theirs], [theirs, theirs], context)
        for key in (f"users_limits:{name}", name)
    )
    assert (crossed.low, crossed.high) == pytest.approx((plain.low, plain.high), abs=2e-3)


@pytest.mark.parametrize("name", ["least", "good_classes"])
def test_where_a_function_is_not_smooth_no_interval_is_known(name: str) -> None:
    context = MetricContext(torch.ones(10))
    ours, theirs = models(0.5, recall=0.9)
    counts = ours.counts(10).double()
    # The least and the largest value that it is seen to take: those of useless and of perfect predictions.
    assert own_bounds(f"users_limits:{name}", counts, context, 0.05) == (0.0, 1.0)
    influence = own_influence(f"users_limits:{name}", ours, theirs, context)
    assert (influence.reach, influence.largest) == (1.0, 1.0)
    for sides in ([ours], [ours, theirs]):
        gap = paired_difference(f"users_limits:{name}", sides, [theirs], context)
        assert (gap.low, gap.high) == (-1.0, 1.0)


def test_a_minimum_of_one_weak_class_is_smooth_there() -> None:
    counts = torch.tensor([[60.0, 40.0], [1.0, 99.0]], dtype=torch.float64)
    low, high = own_bounds("users_limits:least", counts, CONTEXT, 0.05)
    assert 0.48 < low < 0.53 < 0.67 < high < 0.72


def test_pseudo_samples_are_half_hits_and_half_where_misses_are() -> None:
    counts = torch.tensor([[8.0, 2.0, 0.0], [0.0, 10.0, 0.0], [0.0, 5.0, 5.0]], dtype=torch.float64)
    near = with_pseudo_samples(counts, torch.full((3,), 2.0, dtype=torch.float64))
    assert torch.allclose(near.sum(1), torch.ones(3, dtype=torch.float64))
    assert float(near[0, 0]) == pytest.approx(9.0 / 12.0)
    assert bool((near > 0).all())
    assert float(near[2, 1]) > float(near[2, 0])


def test_the_score_by_the_lower_limit_is_that_of_the_interval() -> None:
    counts = torch.tensor([[18.0, 2.0], [1.0, 19.0]])
    low = counts_interval("users_limits:macro_f1", counts, CONTEXT).low
    assert score_of_counts("users_limits:macro_f1", counts, CONTEXT, "lower_bound") == low


def test_its_margin_must_be_set() -> None:
    with pytest.raises(ValueError, match="users_limits:macro_f1 has no margin of its own"):
        default_margin("users_limits:macro_f1", 10)
    assert not is_minimum("users_limits:least")
    # A class may have a colon in its name.
    assert [is_own(key) for key in ("users_limits:least", "recall/a:b", "min_recall")] == [True, False, False]
    assert [is_fraction(key) for key in ("users_limits:least", "recall/a:b", "cost")] == [False, True, False]


@pytest.mark.parametrize(
    "cell",
    [
        Cell("benchmarks.own:mcc", "single", 2, "24", "alike:0.95"),
        Cell("benchmarks.own:fbeta", "single", 10, "5-100", "weak:0.5"),
        Cell("benchmarks.own:mcc", "paired", 10, "24", "alike:0.99"),
        Cell("benchmarks.own:fbeta", "single", 10, "24", "alike:0.95"),
        Cell("benchmarks.own:fbeta", "paired", 10, "24", "spread:0.5:0.98", correlation=0.5),
    ],
    ids=lambda cell: f"{cell.metric}-{cell.kind}",
)
def test_limits_hold_in_simulation(cell: Cell) -> None:
    # 60 draws of a fixed seed: at a true 5 % more than 9 would miss with probability .001.
    assert misses(cell, 60, 0)[0] <= 9
