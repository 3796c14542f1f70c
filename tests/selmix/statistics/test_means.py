"""Weighted means of recalls and costs, and differences that are sums over samples: closed forms and cases by hand."""

from __future__ import annotations

import math

import pytest
import torch

from selmix.definitions import Definitions
from selmix.metrics import METRICS, MetricContext, Predictions
from selmix.statistics.intervals import counts_interval
from selmix.statistics.means import (
    Influence,
    cost_influence,
    crossed_bounds,
    influence_bounds,
    linear_bounds,
    linear_influence,
    mean_limits,
    shrunk_rows,
    stratified_variance,
)
from selmix.statistics.proportions import clopper_pearson

Z = 1.959964


def exact(hits: int, trials: int, alpha: float = 0.025) -> list[float]:
    """Clopper-Pearson limits of one proportion."""
    return [float(end) for end in clopper_pearson(torch.tensor([hits]), torch.tensor([trials]), alpha)]


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_equal_classes_count_as_one_of_all_their_samples() -> None:
    found = mean_limits(torch.full((4,), 0.25), numbers(6, 3, 3, 6), torch.full((4,), 6.0), 0.025)
    assert found == pytest.approx(exact(18, 24))


@pytest.mark.parametrize("hits", [0, 1, 5, 10])
def test_one_class_has_its_exact_limits_and_a_class_of_share_zero_is_no_part(hits: int) -> None:
    assert mean_limits(numbers(1), numbers(hits), numbers(10), 0.025) == pytest.approx(exact(hits, 10))
    beside = mean_limits(numbers(0, 1), numbers(0, hits), numbers(0, 10), 0.025)
    assert beside == pytest.approx(exact(hits, 10))


def test_limits_of_misses_mirror_those_of_hits() -> None:
    shares, trials, hits = numbers(0.5, 0.3, 0.2), numbers(5, 40, 100), numbers(2, 38, 100)
    low, high = mean_limits(shares, hits, trials, 0.025)
    assert mean_limits(shares, trials - hits, trials, 0.025) == pytest.approx((1 - high, 1 - low))


def test_few_samples_of_much_weight_that_are_all_hits_widen_the_limits() -> None:
    """MOVER by hand: each class's own lower limit, root of the sum of squares."""
    shares, trials = numbers(0.5, 0.5), numbers(5, 500)
    low, high = mean_limits(shares, trials, trials, 0.025)
    downs = [0.5 * (1 - exact(n, n)[0]) for n in (5, 500)]
    assert low == pytest.approx(1 - math.hypot(*downs))
    assert high == 1.0


def test_two_classes_of_five_among_eight_of_five_hundred_are_covered() -> None:
    """The case in which Clopper-Pearson with 1 / sum(share^2 / n) samples covers 86 %."""
    trials, truth = numbers(5, 5, *[500] * 8), numbers(0.5, 0.5, *[0.98] * 8)
    generator, held = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        hits = torch.binomial(trials, truth, generator=generator)
        low, high = mean_limits(torch.full((10,), 0.1), hits, trials, 0.025)
        held += low <= float(truth.mean()) <= high
    assert held / 400 >= 0.93


def test_linear_bounds_are_of_metrics_of_the_recalls_alone() -> None:
    context = MetricContext(torch.tensor([5, 5]))
    counts = numbers(8, 2, 1, 9).view(2, 2)
    assert linear_bounds("mean_recall", counts, context, 0.05) == pytest.approx(exact(17, 20))
    with pytest.raises(ValueError, match="macro_f1 is no metric of the recalls"):
        linear_bounds("macro_f1", counts, context, 0.05)


def test_rows_get_one_sample_at_the_pooled_recall_and_columns() -> None:
    counts = numbers(4, 0, 0, 1, 2, 1, 0, 2, 2).view(3, 3)
    # 8 of 12 right; misses by column 1, 2, 1: those of row 0 go to columns 1 and 2 as 2 to 1
    first = [(4 + 2 / 3) / 5, (1 / 3 * 2 / 3) / 5, (1 / 3 * 1 / 3) / 5]
    found = shrunk_rows(counts)
    assert found[0].tolist() == pytest.approx(first)
    assert found.sum(dim=1).tolist() == pytest.approx([1, 1, 1])
    perfect = shrunk_rows(torch.eye(3, dtype=torch.float64) * 5)
    assert torch.equal(perfect, torch.eye(3, dtype=torch.float64))
    # Misses lie in column 0 alone: the miss of row 0 is spread evenly.
    lonely = shrunk_rows(numbers(3, 0, 0, 3, 0, 0, 0, 0, 3).view(3, 3))
    assert lonely[0].tolist() == pytest.approx([(3 + 2 / 3) / 4, 1 / 24, 1 / 24])


def test_a_cost_of_one_for_every_miss_is_an_error_rate() -> None:
    costs = ((0.0, 3.0, 3.0), (3.0, 0.0, 3.0), (3.0, 3.0, 0.0))
    context = MetricContext(torch.tensor([5, 5, 5]), Definitions(cost_matrix=costs))
    counts = torch.full((3, 3), 1.0, dtype=torch.float64) + 6 * torch.eye(3, dtype=torch.float64)
    found = counts_interval("cost", counts, context)
    assert (found.low, found.high) == pytest.approx(tuple(3 * end for end in exact(6, 27)))
    flat = MetricContext(torch.tensor([5, 5, 5]), Definitions(cost_matrix=((2.0,) * 3,) * 3))
    assert counts_interval("cost", counts, flat).high == 2.0


def test_the_variance_within_classes_by_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 7 + [2] * 5 + [3])
    values = torch.randn(13, generator=generator, dtype=torch.float64)
    expected = sum(n * float(values[labels == k].var()) for k, n in ((0, 7), (2, 5)))
    # Of the single sample of class 3 the square stands for the variance.
    assert stratified_variance(labels, values) == pytest.approx(expected + float(values[-1]) ** 2)


def test_two_samples_that_disagree_with_a_perfect_model_decide_nothing() -> None:
    """10 classes of 24: by hand sqrt(V + 2 / 240^2), and the difference times 240 / 242."""
    labels = torch.arange(10).repeat_interleave(24)
    context = MetricContext(torch.full((10,), 5))
    perfect = Predictions(labels, labels, torch.ones(240))
    predicted = labels.clone()
    predicted[[0, 30]] += 1
    other = Predictions(labels, predicted, torch.ones(240))
    influence = linear_influence("mean_recall", perfect, other, context)
    assert influence.largest == pytest.approx(1 / 240)
    assert influence.of_samples.nonzero().flatten().tolist() == [0, 30]
    variance = 2 * 24 * (1 / 240) ** 2 * (1 / 24) * (23 / 24) * 24 / 23
    half = Z * math.sqrt(variance + 2 / 240**2)
    expected = (2 / 242 - half, 2 / 242 + half)
    assert influence_bounds(labels, 2 / 240, influence, 0.05) == pytest.approx(expected, rel=1e-5)
    assert expected[0] < 0


def test_the_influence_on_a_cost_sums_to_its_difference() -> None:
    costs = ((0.0, 1.0, 4.0), (1.0, 0.0, 1.0), (2.0, 1.0, 0.0))
    context = MetricContext(torch.tensor([5, 5, 5]), Definitions(cost_matrix=costs))
    generator, labels = torch.Generator().manual_seed(0), torch.arange(3).repeat(20)
    a, b = (
        Predictions(labels, torch.randint(3, (60,), generator=generator), torch.ones(60)) for _ in range(2)
    )
    influence = cost_influence("cost", a, b, context)
    difference = a.value(METRICS["cost"], context) - b.value(METRICS["cost"], context)
    assert float(influence.of_samples.sum()) == pytest.approx(difference)
    assert influence.largest == 4 / 60


def test_replicates_crossed_with_samples_by_hand() -> None:
    """One class of four samples, two seeds: in each another sample differs, by a quarter."""
    labels = torch.zeros(4, dtype=torch.int64)
    influences = [Influence(numbers(0.25, 0, 0, 0), 0.25), Influence(numbers(0, 0.25, 0, 0), 0.25)]
    # Averaged .125 twice: variance .0052083, times 4 samples; pseudo-samples 2 * .25^2 / 2 seeds.
    by_samples = 4 * (2 * 0.125**2 - 0.25**2 / 4) / 3 + 0.25**2
    low, high = crossed_bounds(labels, [0.25, 0.25], influences, 0.05)
    assert ((high - low) / 2, (high + low) / 2) == pytest.approx(
        (Z * math.sqrt(by_samples), 0.25 * 4 / 6), rel=1e-5
    )
    # Seeds half a unit apart: variance .125 over two, and Student's t of one degree of freedom.
    low, high = crossed_bounds(labels, [0.5, 0.0], influences, 0.05)
    assert (high - low) / 2 == pytest.approx(math.sqrt(Z**2 * by_samples + 12.7062**2 * 0.0625), rel=1e-5)
