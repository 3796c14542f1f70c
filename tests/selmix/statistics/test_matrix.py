"""Macro F1, precision and coverage: influences by finite differences, biases by simulation, limits by loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from selmix.definitions import Definitions
from selmix.metric_functions import macro_f1
from selmix.metrics import METRICS, MetricContext, Predictions
from selmix.statistics import matrix
from selmix.statistics.constructions import CONSTRUCTIONS
from selmix.statistics.matrix import (
    coverage_bounds,
    coverage_difference,
    coverage_members,
    macro_f_bounds,
    macro_f_influence,
    macro_f_influences,
    matrix_influences,
    min_precision_bounds,
    min_precision_difference,
    squared_beta,
)
from selmix.statistics.means import shrunk_rows, stratified_variance
from selmix.statistics.paired_minima import SPLIT, Parts, least_difference, proportions
from selmix.statistics.proportions import clopper_pearson, normal_quantile
from tests.selmix.statistics.simulation import coverage

CONTEXT = MetricContext(torch.tensor([300, 50, 5]))
COUNTS = torch.tensor([[18.0, 1.0, 1.0], [5.0, 10.0, 5.0], [2.0, 2.0, 4.0]], dtype=torch.float64)


def pair(seed: int, each: int = 30, right: float = 0.7) -> tuple[Predictions, Predictions]:
    """Two models of three classes that share the luck of half of the samples."""
    generator, labels = torch.Generator().manual_seed(seed), torch.arange(3).repeat_interleave(each)
    luck = [torch.rand(len(labels), generator=generator) for _ in range(2)]
    luck[1] = torch.where(torch.rand(len(labels), generator=generator) < 0.5, *luck)
    elsewhere = [(labels + torch.randint(1, 3, labels.shape, generator=generator)) % 3 for _ in range(2)]
    a, b = (
        Predictions(labels, torch.where(u < right, labels, other), torch.ones(len(labels)))
        for u, other in zip(luck, elsewhere, strict=True)
    )
    return a, b


def test_influences_on_macro_f1_by_finite_differences() -> None:
    changes, step = torch.zeros(3, 3, dtype=torch.float64), 1e-5
    for i in range(3):
        for j in range(3):
            up, down = COUNTS.clone(), COUNTS.clone()
            up[i, j] += step
            down[i, j] -= step
            changes[i, j] = float(macro_f1(up, CONTEXT) - macro_f1(down, CONTEXT)) / (2 * step)
    found = macro_f_influences(COUNTS)
    # Up to a constant of the row.
    difference = changes - found
    assert torch.allclose(difference, difference[:, :1].expand(3, 3), atol=1e-8)


def test_the_bias_of_macro_f1_by_simulation() -> None:
    near, rows = shrunk_rows(COUNTS), COUNTS.sum(dim=1)
    random = np.random.default_rng(0)
    drawn = np.stack([random.multinomial(int(n), p, 40_000) for n, p in zip(rows, near.numpy(), strict=True)])
    values = macro_f1(torch.from_numpy(drawn).double().transpose(0, 1), CONTEXT)
    simulated = float(values.mean()) - float(macro_f1(near * rows.unsqueeze(1), CONTEXT))
    error = float(values.std()) / 200
    # Four errors of the simulation, and a tenth of the bias for the third order.
    found = matrix._macro_f_bias(near, rows, 1.0)
    assert found == pytest.approx(simulated, abs=4 * error + 0.1 * abs(simulated))
    assert found < -2 * error


def test_the_variance_of_a_difference_of_macro_f1_by_simulation() -> None:
    differences, variances = [], []
    for seed in range(300):
        a, b = pair(seed, 100)
        differences.append(a.value(METRICS["macro_f1"], CONTEXT) - b.value(METRICS["macro_f1"], CONTEXT))
        influence = macro_f_influence("macro_f1", a, b, CONTEXT)
        variances.append(stratified_variance(a.labels, influence.of_samples))
    # The deviation of 300 draws has a standard error of 4 %.
    found = math.sqrt(sum(variances) / len(variances))
    assert found == pytest.approx(float(torch.tensor(differences).std()), rel=0.15)


def test_one_sample_does_not_decide_macro_f1() -> None:
    """Twenty shared errors, and one more on one side."""
    labels = torch.arange(10).repeat_interleave(24)
    context, predicted = MetricContext(torch.full((10,), 5)), labels.clone()
    predicted[::12] = (predicted[::12] + 1) % 10
    worse = predicted.clone()
    worse[1] = 1
    a, b = (Predictions(labels, side, torch.ones(240)) for side in (predicted, worse))
    value = a.value(METRICS["macro_f1"], context) - b.value(METRICS["macro_f1"], context)
    low, high = CONSTRUCTIONS["macro_f1"].difference(a, b, value, context, 0.05)
    assert low < 0 < value < high


def test_macro_f1_of_too_few_samples_is_not_known() -> None:
    generator, classes = torch.Generator().manual_seed(0), 1000
    counts = torch.zeros(classes, classes, dtype=torch.float64)
    for k in range(classes):
        for _ in range(5):
            right = float(torch.rand(1, generator=generator)) < 0.3
            counts[k, k if right else int(torch.randint(classes, (1,), generator=generator))] += 1
    assert macro_f_bounds("macro_f1", counts, MetricContext(torch.full((classes,), 5)), 0.05) == (0.0, 1.0)


@pytest.mark.parametrize("key", ["macro_f1", "min_precision"])
@pytest.mark.parametrize("truth", [[0.99] * 10, [0.9] * 10, [0.95] * 9 + [0.5]])
def test_metrics_of_the_matrix_are_covered(key: str, truth: list[float]) -> None:
    # 100 draws: at a true coverage of .95 fewer than 88 with probability .002.
    assert coverage(key, truth, 100) >= 0.88


def test_limits_of_the_least_precision_by_column() -> None:
    low, high = min_precision_bounds(COUNTS, CONTEXT, 0.05)
    columns = COUNTS.sum(dim=0)
    lows, _ = clopper_pearson(COUNTS.diagonal(), columns, 0.025)
    _, highs = clopper_pearson(COUNTS.diagonal(), columns, 0.05 / 6)
    assert (low, high) == (float(lows.min()), float(highs.min()))
    never = torch.tensor([[20.0, 0.0, 0.0], [0.0, 20.0, 0.0], [5.0, 15.0, 0.0]], dtype=torch.float64)
    low, high = min_precision_bounds(never, CONTEXT, 0.05)
    assert low == 0.0  # of class 2, never predicted, nothing is known
    assert high < 1.0


def test_the_paired_limit_of_precisions_by_a_loop() -> None:
    a, b = pair(0)
    sides = []
    for side in (a, b):
        hits = torch.tensor([int((side.correct & (side.predicted == k)).sum()) for k in range(3)])
        m = torch.bincount(side.predicted, minlength=3)
        sides.append((hits.double(), m.double()))
    lows = []
    for k in range(3):
        squares = 0.0
        for i in range(len(a.labels)):
            phi = [
                (float(side.correct[i]) - float(hits[k] / m[k])) / float(m[k])
                if int(side.predicted[i]) == k
                else 0.0
                for side, (hits, m) in zip((a, b), sides, strict=True)
            ]
            squares += (phi[0] - phi[1]) ** 2
        fewest = min(float(m[k]) for _, m in sides)
        difference = float(sides[0][0][k] / sides[0][1][k] - sides[1][0][k] / sides[1][1][k])
        half = normal_quantile(SPLIT * 0.05 / 2) * math.sqrt(squares + 2 / fewest**2)
        lows.append(difference * fewest / (fewest + 2) - half)
    ours, theirs = (proportions(hits, m, 0.05) for hits, m in sides)
    expected = least_difference(torch.tensor(lows, dtype=torch.float64), ours, theirs, 0.05)
    assert min_precision_difference(a, b, CONTEXT, 0.05)[0] == pytest.approx(expected)


def test_classes_of_few_predictions_have_no_paired_limit() -> None:
    """A model against itself: with a paired limit of each class the interval would be narrower than one apart."""
    labels = torch.arange(3).repeat_interleave(20)
    few, many = labels.clone(), labels.clone()
    few[40:57], few[:4] = 1, 2  # class 2 is predicted seven times, three of them rightly
    for predicted, paired in ((few, False), (many, True)):
        side = Predictions(labels, predicted, torch.ones(60))
        low, high = min_precision_difference(side, side, CONTEXT, 0.05)
        parts = proportions(side.counts(3).double().diagonal(), side.counts(3).double().sum(dim=0), 0.05)
        nothing = torch.full((3,), -torch.inf, dtype=torch.float64)
        apart = least_difference(nothing, parts, parts, 0.05)
        assert (low > apart + 1e-9) == paired
        assert low == pytest.approx(-high)


def test_the_paired_limit_of_coverages_by_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair(1)
    seen: list[Tensor] = []

    def least(paired: Tensor, ours: Parts, theirs: Parts, alpha: float) -> float:
        seen.append(paired)
        return 0.0

    monkeypatch.setattr(matrix, "least_difference", least)
    for key in ("min_coverage", "min_head_tail_coverage"):
        seen.clear()
        coverage_difference(key, a, b, CONTEXT, 0.05)
        groups = [[0], [1], [2]] if key == "min_coverage" else [[0, 1], [2]]
        expected = []
        for group in groups:
            d = torch.tensor(
                [
                    (int(x in group) - int(y in group))
                    for x, y in zip(a.predicted.tolist(), b.predicted.tolist(), strict=True)
                ]
            ).double()
            half = normal_quantile(SPLIT * 0.05 / 2) * math.sqrt(float(d.square().sum()) + 2)
            expected.append((float(d.sum()) * 90 / 92 - half) / (90 * len(group)))
        assert seen[0].tolist() == pytest.approx(expected), key


def test_limits_of_the_least_coverage_solve_their_equation() -> None:
    """Wilson's: the observed coverage lies z standard errors from a limit, the error being that at the limit."""
    labels = torch.arange(2).repeat(20)
    side = Predictions(labels, torch.where(torch.arange(40) < 30, labels, 0), torch.ones(40))
    context = MetricContext(torch.tensor([5, 5]))
    counts = side.counts(2).double()
    low, high = coverage_bounds("min_coverage", counts, context, 0.05)
    value = float(METRICS["min_coverage"].of(counts, context))
    members = coverage_members("min_coverage", context)
    _, _, per_unit = matrix._coverages(counts, members)
    assert low < value < high
    k = int(counts.sum(dim=0).argmin())
    assert value - low == pytest.approx(1.959964 * math.sqrt(low * float(per_unit[k])), rel=1e-5)
    # Near values have half a count more in each row: 15.25 of 20.5 and .25 of 20.5.
    shares = [float((counts[i, k] + 0.25) / 20.5) for i in range(2)]
    variance = sum(20 * p * (1 - p) for p in shares) / 40**2
    assert float(per_unit[k]) == pytest.approx(variance / (20 * sum(shares) / 40))


def test_members_of_head_and_tail() -> None:
    assert coverage_members("min_coverage", CONTEXT).tolist() == torch.eye(3).tolist()
    head, tail = coverage_members("min_head_tail_coverage", CONTEXT).tolist()
    assert [h + t for h, t in zip(head, tail, strict=True)] == [1.0, 1.0, 1.0]
    assert tail[2] == 1.0


@pytest.mark.parametrize("key", ["mcc", "cohen_kappa", "f_beta"])
def test_influences_are_finite_differences_of_the_metric(key: str) -> None:
    near = shrunk_rows(COUNTS) * COUNTS.sum(dim=1, keepdim=True)
    step, changes = 1e-5, torch.empty(3, 3, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            up, down = near.clone(), near.clone()
            up[i, j] += step
            down[i, j] -= step
            changes[i, j] = float(METRICS[key].of(up, CONTEXT) - METRICS[key].of(down, CONTEXT)) / (2 * step)
    square = squared_beta(key, CONTEXT)
    found = macro_f_influences(near, square) if key == "f_beta" else matrix_influences(key, COUNTS, CONTEXT)
    # Up to a constant of the row: rows are drawn with their sums. 1e-7 for the differences.
    difference = found - changes
    assert torch.allclose(difference, difference[:, :1].expand_as(difference), atol=1e-7)


@pytest.mark.parametrize("key", ["mcc", "cohen_kappa"])
def test_the_bias_of_an_agreement_is_small_beside_its_error(key: str) -> None:
    near, rows = shrunk_rows(COUNTS), COUNTS.sum(dim=1)
    random = np.random.default_rng(0)
    drawn = np.stack([random.multinomial(int(n), p, 20_000) for n, p in zip(rows, near.numpy(), strict=True)])
    values = METRICS[key].of(torch.from_numpy(drawn).double().transpose(0, 1), CONTEXT)
    bias = float(values.mean()) - float(METRICS[key].of(near * rows.unsqueeze(1), CONTEXT))
    assert abs(bias) < 0.1 * float(values.std())


@pytest.mark.parametrize("key", ["mcc", "cohen_kappa"])
def test_limits_of_an_agreement_lie_in_its_range_and_hold_at_its_ends(key: str) -> None:
    never = torch.tensor([[0.0, 9.0], [9.0, 0.0]], dtype=torch.float64)
    always = torch.tensor([[9.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
    one_class = torch.tensor([[9.0, 0.0], [9.0, 0.0]], dtype=torch.float64)
    two = MetricContext(torch.ones(2))
    for counts, value in ((never, -1.0), (always, 1.0), (one_class, 0.0)):
        assert float(METRICS[key].of(counts, two)) == pytest.approx(value)
        low, high = CONSTRUCTIONS[key].of_counts(counts, two, 0.05)  # type: ignore[misc]
        assert -1.0 <= low <= value <= high <= 1.0
        assert high - low > 0.3


def test_f_of_beta_one_is_macro_f1_with_its_limits() -> None:
    one = MetricContext(CONTEXT.train_counts, Definitions(beta=1.0))
    assert float(METRICS["f_beta"].of(COUNTS, one)) == float(METRICS["macro_f1"].of(COUNTS, one))
    assert macro_f_bounds("f_beta", COUNTS, one, 0.05) == macro_f_bounds("macro_f1", COUNTS, one, 0.05)
    a, b = pair(0)
    both = [macro_f_influence(key, a, b, one) for key in ("f_beta", "macro_f1")]
    assert torch.equal(both[0].of_samples, both[1].of_samples)
    assert both[0].largest == both[1].largest
