"""Limits of metrics of the scores: influences by leaving samples out, variances by simulation, and coverage."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.size_study import Cell, misses
from selmix.metrics import METRICS, MetricContext, Predictions, auroc, brier_score, placements, squared_errors
from selmix.statistics.comparison import paired_difference
from selmix.statistics.intervals import metric_interval
from selmix.statistics.means import stratified_variance
from selmix.statistics.scores import auroc_bounds, auroc_influence, auroc_influences, brier_bounds


def model(classes: int, each: int, seed: int, apart: float = 1.0) -> Predictions:
    """Scores about the label, rounded so that some are equal."""
    generator, labels = torch.Generator().manual_seed(seed), torch.arange(classes).repeat_interleave(each)
    scores = torch.randn(len(labels), classes, generator=generator, dtype=torch.float64)
    scores[torch.arange(len(labels)), labels] += apart
    logs = torch.log_softmax((4 * scores).round() / 4, dim=1)
    return Predictions(labels, logs.argmax(dim=1), logs.max(dim=1).values.exp(), None, logs)


def context(classes: int) -> MetricContext:
    return MetricContext(torch.ones(classes))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_area_is_the_share_of_pairs_in_order(classes: int) -> None:
    found = model(classes, 12, 0)
    logs = found.log_probabilities
    assert logs is not None
    areas = []
    for k in range(1 if classes == 2 else 0, classes):
        ours, others = logs[found.labels == k, k], logs[found.labels != k, k]
        pairs = ours.unsqueeze(1) - others
        areas.append(float(((pairs > 0).double() + 0.5 * (pairs == 0)).mean()))
    assert auroc(found) == pytest.approx(sum(areas) / len(areas), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_size_of_the_parts_changes_nothing(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large table is worked on in parts; metrics, limits and counts are those of the whole, ties across parts too."""
    found, keys = (
        model(classes, 40, 3),
        [key for key, each in METRICS.items() if each.of_predictions is not None],
    )
    whole = {key: found.value(METRICS[key], context(classes)) for key in keys}
    placed, influences = placements(found.confidence, found.correct), auroc_influences(found)
    counts = found.counts(classes)
    monkeypatch.setattr("selmix.metrics._ROWS_AT_ONCE", 7)
    monkeypatch.setattr("selmix.confusion._ROWS_AT_ONCE", 7)
    assert {key: found.value(METRICS[key], context(classes)) for key in keys} == pytest.approx(
        whole, abs=1e-14
    )
    assert all(map(torch.equal, placements(found.confidence, found.correct), placed))
    assert torch.equal(auroc_influences(found), influences)
    assert torch.equal(found.counts(classes), counts)


def test_placements_count_ties_apart() -> None:
    below, equal = placements(torch.tensor([1.0, 2.0, 2.0, 3.0]), torch.tensor([True, True, False, False]))
    assert below.tolist() == [0.0, 0.0, 1.0, 2.0]
    assert equal.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_the_brier_score_is_the_squared_distance_from_the_label() -> None:
    for classes, divisor in ((3, 1.0), (2, 2.0)):
        found = model(classes, 7, 1)
        assert found.log_probabilities is not None
        distance = found.log_probabilities.exp() - torch.eye(classes, dtype=torch.float64)[found.labels]
        assert torch.allclose(squared_errors(found), distance.square().sum(dim=1) / divisor, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_variance_of_the_area_is_that_of_its_influences(classes: int) -> None:
    values, variances = [], []
    for seed in range(400):
        found = model(classes, 40, seed)
        values.append(auroc(found))
        variances.append(stratified_variance(found.labels, auroc_influences(found)))
    # The deviation of 400 draws has a standard error of 3.5 %; the estimate is a little too large (order 1 / n).
    deviation = (sum(variances) / len(variances)) ** 0.5
    assert deviation == pytest.approx(float(torch.tensor(values).std()), rel=0.15)


def test_the_largest_influence_is_that_of_a_sample_placed_against_all() -> None:
    for classes, each in ((2, 5), (4, 9)):
        labels = torch.arange(classes).repeat_interleave(each)
        logs = torch.log_softmax(9.0 * torch.eye(classes, dtype=torch.float64)[labels], dim=1)
        perfect = Predictions(labels, labels, torch.ones(len(labels)), None, logs)
        # Rightly placed on every curve: no sample contributes more.
        largest = auroc_influence(perfect, perfect, context(classes)).largest
        assert float(auroc_influences(perfect).max()) == pytest.approx(largest)


@pytest.mark.parametrize("key", ["brier_score", "auroc"])
def test_perfect_scores_have_limits_of_some_width(key: str) -> None:
    labels = torch.arange(3).repeat_interleave(24)
    logs = torch.log_softmax(60.0 * torch.eye(3, dtype=torch.float64)[labels], dim=1)
    perfect = Predictions(labels, labels, torch.ones(72), None, logs)
    found = metric_interval(key, perfect, context(3))
    # At least what a proportion of as many samples would leave open.
    assert found.high - found.low > 1.0 - 0.025 ** (1 / 72)
    assert found.low <= found.value <= found.high


def test_small_errors_of_few_samples_do_not_rule_out_a_large_one() -> None:
    found = model(3, 4, 0, apart=9.0)
    assert brier_score(found) < 0.01
    assert brier_bounds(found, 0.05)[1] > 0.25
    low, high = auroc_bounds(found, 0.05)
    assert low < 0.8
    assert high == 1.0


@pytest.mark.parametrize("key", ["brier_score", "auroc"])
def test_a_difference_has_the_sign_of_the_better_side(key: str) -> None:
    good, bad = model(3, 200, 0, apart=2.0), model(3, 200, 1, apart=0.5)
    found = paired_difference(key, [good], [bad], context(3))
    assert found.low > 0
    assert METRICS[key].sign * (
        good.value(METRICS[key], context(3)) - bad.value(METRICS[key], context(3))
    ) == (pytest.approx(found.value))


@pytest.mark.parametrize(
    "cell",
    [
        Cell("brier_score", "single", 2, "24", "apart:2.5:3"),
        Cell("brier_score", "paired", 3, "5-100", "apart:1:1", correlation=0.5),
        Cell("auroc", "single", 2, "5-100", "apart:2.5:1"),
        Cell("auroc", "paired", 2, "24", "apart:1:1", correlation=0.5),
    ],
    ids=lambda cell: f"{cell.metric}-{cell.kind}",
)
def test_cells_in_which_normal_limits_fail(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    # The truth of fewer samples: its error is still small beside intervals of these.
    monkeypatch.setattr("benchmarks.size_study.MANY", 40_000)
    # 60 draws of a fixed seed: at a true 5 % more than 9 would miss with probability .001.
    assert misses(cell, 60, 0)[0] <= 9


def scores_missing() -> Predictions:
    return Predictions(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([0.9, 0.8]))


@pytest.mark.parametrize("key", [key for key, metric in METRICS.items() if metric.by_scores])
def test_without_scores_their_metrics_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="needs the scores of all classes"):
        scores_missing().value(METRICS[key], context(2))


def test_scores_go_with_their_samples() -> None:
    found = model(3, 4, 0)
    index: Tensor = torch.tensor([5, 5, 0])
    taken = found.take(index)
    assert found.log_probabilities is not None
    assert taken.log_probabilities is not None
    assert torch.equal(taken.log_probabilities, found.log_probabilities[index])
    assert scores_missing().take(torch.tensor([0])).log_probabilities is None
