"""Every metric against a loop over samples, on counts and on shares, at its edges, and what its entry declares."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selmix.confusion import confusion_counts
from selmix.definitions import Definitions
from selmix.groups import strata_of, stratum_labels
from selmix.metrics import METRICS, Metric, MetricContext, Predictions

Row = tuple[int, int, int]
"""Class, predicted class and group of a sample."""

OF_COUNTS = [key for key, metric in METRICS.items() if metric.of_predictions is None]
OF_CLASSES = [key for key in OF_COUNTS if METRICS[key].of_cells is None]
TRAIN = (300, 101, 100, 20, 19)


def context(classes: int, groups: int = 2) -> MetricContext:
    weights = tuple(1.0 + k for k in range(classes))
    costs = tuple(tuple(float((3 * k + j) % 4 * (k != j)) for j in range(classes)) for k in range(classes))
    return MetricContext(torch.tensor(TRAIN[:classes]), Definitions(0.5, weights, costs, 0.6), groups)


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def least(values: list[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else min(values)


def gap(rates: list[float]) -> float:
    """Spread of the rates of groups, those without samples left out."""
    held = [rate for rate in rates if not math.isnan(rate)]
    return max(held) - min(held) if held else 0.0


def by_loop(key: str, rows: list[Row], classes: int, groups: int) -> float:
    """A metric by its definition, sample by sample."""
    k = range(classes)
    recall = [mean([float(p == j) for c, p, _ in rows if c == j]) for j in k]
    covered = [mean([float(p == j) for _, p, _ in rows]) for j in k]
    precision = [mean([float(c == j) for c, p, _ in rows if p == j]) for j in k]
    hit = [sum(c == p == j for c, p, _ in rows) for j in k]
    size = [sum((c == j) + (p == j) for c, p, _ in rows) for j in k]
    head = min(math.ceil(0.6 * classes - 1e-9), classes - 1)  # the training counts fall with the class
    amount = max(1.0, 0.5 * classes)
    worst = [max(0.0, min(1.0, amount - j)) * r for j, r in enumerate(sorted(recall))]
    given_definitions = context(classes).definitions
    weights, costs = given_definitions.recall_weights or (), given_definitions.cost_matrix or ()

    def rate(j: int | None, predicted: int, a: int) -> float:
        """Share of a group (and of class j) that is predicted as a class."""
        return mean([float(p == predicted) for c, p, g in rows if g == a and j in (None, c)])

    def spread(of: list[tuple[int | None, int]]) -> float:
        return max(gap([rate(j, p, a) for a in range(groups)]) for j, p in of)

    def false_positives(j: int, a: int) -> float:
        """Share of a group's samples of all other classes that is predicted as a class."""
        return mean([float(p == j) for c, p, g in rows if g == a and c != j])

    def kappa(others: float) -> float:
        """Agreement beyond chance over what ``others`` leaves of it; 0 where nothing is left."""
        beyond = mean([float(c == p) for c, p, _ in rows]) - sum(
            t * d for t, d in zip(truth, covered, strict=True)
        )
        return 0.0 if others < 1e-12 else beyond / others

    truth = [mean([float(c == j) for c, _, _ in rows]) for j in k]
    varied = [1 - sum(share**2 for share in shares) for shares in (truth, covered)]
    square = given_definitions.beta**2
    cells = [rate(j, j, a) for j in k for a in range(groups)]
    return {
        "mean_recall": lambda: mean(recall),
        "min_recall": lambda: min(recall),
        "min_head_tail_recall": lambda: least([mean(recall[:head]), mean(recall[head:])]),
        "g_mean": lambda: math.prod(recall) ** (1 / classes),
        "h_mean": lambda: classes / sum(1 / r for r in recall) if all(recall) else 0.0,
        "q_mean": lambda: 1 - math.sqrt(mean([(1 - r) ** 2 for r in recall])),
        "cvar_recall": lambda: sum(worst) / amount,
        "weighted_recall": lambda: sum(w * r for w, r in zip(weights, recall, strict=True)) / sum(weights),
        "macro_f1": lambda: mean([2 * hit[j] / size[j] for j in k]),
        "f_beta": lambda: mean(
            [(1 + square) * hit[j] / sum(square * (c == j) + (p == j) for c, p, _ in rows) for j in k]
        ),
        "mcc": lambda: kappa(math.sqrt(varied[0] * varied[1]) if min(varied) > 1e-12 else 0.0),
        "cohen_kappa": lambda: kappa(1 - sum(t * d for t, d in zip(truth, covered, strict=True))),
        "min_precision": lambda: min(0.0 if math.isnan(p) else p for p in precision),
        "accuracy": lambda: mean([float(c == p) for c, p, _ in rows]),
        "balanced_accuracy": lambda: mean(recall),
        "balanced_error": lambda: mean([1 - r for r in recall]),
        "cost": lambda: mean([costs[c][p] for c, p, _ in rows]),
        "min_coverage": lambda: min(covered),
        "min_head_tail_coverage": lambda: least([mean(covered[:head]), mean(covered[head:])]),
        "recall_gap": lambda: max(recall) - min(recall),
        "worst_group_recall": lambda: min(r for r in cells if not math.isnan(r)),
        "equal_opportunity_gap": lambda: spread([(j, j) for j in k if classes != 2 or j == 1]),
        "equalized_odds_gap": lambda: spread([(j, p) for j in k for p in k]),
        "one_vs_rest_odds_gap": lambda: max(
            spread([(j, j) for j in k]), *(gap([false_positives(j, a) for a in range(groups)]) for j in k)
        ),
        "demographic_parity_gap": lambda: spread([(None, p) for p in k]),
        "many_shot_recall": lambda: mean([r for r, n in zip(recall, TRAIN, strict=False) if n > 100]),
        "medium_shot_recall": lambda: mean(
            [r for r, n in zip(recall, TRAIN, strict=False) if 20 <= n <= 100]
        ),
        "few_shot_recall": lambda: mean([r for r, n in zip(recall, TRAIN, strict=False) if n < 20]),
    }[key]()


def counted(rows: list[Row], classes: int, groups: int) -> tuple[Tensor, Tensor]:
    """Counts by class, and by (class, group) cell."""
    label, predicted, group = (torch.tensor(column) for column in zip(*rows, strict=True))
    cells = confusion_counts(strata_of(label, group, groups), predicted, classes * groups, classes)
    return confusion_counts(label, predicted, classes, classes), cells


@st.composite
def samples(draw: st.DrawFn) -> tuple[list[Row], int]:
    """At least one sample of each of 1 to 5 classes; cells, and columns of classes never predicted, may be empty."""
    classes = draw(st.integers(1, 5))
    rest = st.tuples(st.integers(0, classes - 1), st.integers(0, 1))
    rows = [(k, *pair) for k in range(classes) for pair in draw(st.lists(rest, min_size=1, max_size=4))]
    return rows, classes


@given(samples())
@settings(max_examples=60, deadline=None)
def test_every_metric_is_its_loop_over_samples_on_counts_and_on_shares(drawn: tuple[list[Row], int]) -> None:
    rows, classes = drawn
    by_class, cells = counted(rows, classes, 2)
    for key in OF_COUNTS:
        matrix = (by_class if METRICS[key].of_cells is None else cells).double()
        expected = pytest.approx(by_loop(key, rows, classes, 2), abs=1e-12, nan_ok=True)
        for scale in (1.0, 1000.0, 1.0 / len(rows)):
            assert float(METRICS[key].of_matrix(scale * matrix, context(classes))) == expected, (key, scale)


@given(samples())
@settings(max_examples=30, deadline=None)
def test_values_of_a_minimum_have_it_as_their_least(drawn: tuple[list[Row], int]) -> None:
    rows, classes = drawn
    by_class, cells = counted(rows, classes, 2)
    for key, metric in METRICS.items():
        if metric.least_of is None:
            continue
        matrix, known = by_class.double(), context(classes)
        if metric.of_cells is not None:
            matrix, known = cells.double(), dataclasses.replace(known, labels=stratum_labels(classes, 2))
        values = metric.least_of(matrix, known)
        value = float(metric.of(matrix, known))
        if not math.isnan(value):  # of one class there is no head, and cells without samples have no recall
            assert float(values[~values.isnan()].min()) == pytest.approx(value, abs=1e-12), key


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.001, 1000.0])
def test_a_perfect_classifier_of_ten_classes_is_perfect_on_any_scale(scale: float) -> None:
    weights, costs = (1.0,) * 10, tuple(tuple(float(k != j) for j in range(10)) for k in range(10))
    known = MetricContext(torch.tensor([200] * 4 + [50] * 3 + [5] * 3), Definitions(0.3, weights, costs), 2)
    perfect = scale * torch.eye(10, dtype=torch.float64)
    for key in OF_COUNTS:
        metric = METRICS[key]
        best = 0.1 if "coverage" in key else 0.0 if metric.minimise else 1.0  # ten classes share the samples
        matrix = perfect if metric.of_cells is None else perfect.repeat_interleave(2, dim=0)
        assert float(metric.of_matrix(matrix, known)) == pytest.approx(best, abs=1e-12), key


@given(samples())
@settings(max_examples=30, deadline=None)
def test_nothing_beats_a_perfect_classifier(drawn: tuple[list[Row], int]) -> None:
    """As ``minimise`` declares; it has not the largest coverage where classes have unequal numbers of samples."""
    rows, classes = drawn
    perfect = [(c, c, g) for c, _, g in rows]
    for key in OF_CLASSES:
        best = METRICS[key].sign * by_loop(key, perfect, classes, 2)
        found = METRICS[key].sign * float(METRICS[key].of(counted(rows, classes, 2)[0], context(classes)))
        assert "coverage" in key or math.isnan(best) or found <= best + 1e-12, key


def mixture(metric: Metric, share: float, seed: int) -> tuple[float, float]:
    """Metric of a mixture of two matrices with the same row sums, and the same mixture of their metrics."""
    g = torch.Generator().manual_seed(seed)
    one, other = (
        torch.softmax(3 * torch.randn(5, 5, generator=g, dtype=torch.float64), dim=1) for _ in range(2)
    )
    rows = torch.tensor([[9.0], [4.0], [3.0], [2.0], [1.0]])
    values = [float(metric.of(rows * m, context(5))) for m in (one, other, share * one + (1 - share) * other)]
    return values[2], share * values[0] + (1 - share) * values[1]


@pytest.mark.parametrize("key", [key for key in OF_CLASSES if METRICS[key].of_recalls is not None])
def test_a_metric_is_linear_in_the_recalls_exactly_where_its_entry_says_so(key: str) -> None:
    gaps = [abs(whole - parts) for s in range(8) for whole, parts in [mixture(METRICS[key], 0.3, s)]]
    assert (max(gaps) < 1e-12) == METRICS[key].linear


@pytest.mark.parametrize("key", OF_CLASSES)
def test_a_metric_needs_the_definition_that_its_entry_names_and_no_other(key: str) -> None:
    counts = torch.tensor([[5, 1, 0], [2, 3, 1], [0, 2, 2]])
    train = torch.tensor([300, 50, 5])
    bare = float(METRICS[key].of(counts, MetricContext(train)))
    assert math.isnan(bare) == (METRICS[key].needs is not None)
    if METRICS[key].needs is not None:
        full = context(3).definitions
        own = {METRICS[key].needs: getattr(full, METRICS[key].needs)}
        assert math.isfinite(float(METRICS[key].of(counts, MetricContext(train, Definitions(**own)))))


@pytest.mark.parametrize("key", OF_CLASSES)
def test_training_counts_decide_exactly_where_the_entry_says_so(key: str) -> None:
    counts = torch.tensor(
        [[9, 1, 0, 0, 0], [1, 7, 2, 0, 0], [0, 3, 5, 1, 1], [2, 0, 2, 3, 3], [4, 2, 1, 1, 2]]
    )
    values = {
        float(METRICS[key].of(counts, dataclasses.replace(context(5), train_counts=torch.tensor(order))))
        for order in itertools.permutations(TRAIN)
    }
    assert (len(values) > 1) == METRICS[key].by_train_counts


@pytest.mark.parametrize("key", OF_CLASSES)
def test_metrics_of_classes_take_strata_with_labels(key: str) -> None:
    """Metrics of the matrix add the cells of a class up; those of recalls are taken over the strata themselves."""
    cells = torch.tensor(
        [[5, 1, 0], [3, 1, 2], [2, 3, 1], [0, 4, 1], [0, 2, 2], [1, 0, 6]], dtype=torch.float64
    )
    known = dataclasses.replace(context(3), labels=stratum_labels(3, 2))
    found = float(METRICS[key].of_matrix(cells, known))
    if METRICS[key].of_counts is not None:
        by_class = cells.view(3, 2, 3).sum(dim=1)
        assert found == pytest.approx(float(METRICS[key].of(by_class, context(3)))), key
        return
    recalls = [5 / 6, 3 / 6, 3 / 6, 4 / 5, 2 / 4, 6 / 7]
    if key == "accuracy":
        assert found == pytest.approx(23 / 34)
    elif key == "mean_recall":
        assert found == pytest.approx(sum(recalls) / 6)
    elif key == "weighted_recall":
        assert found == pytest.approx(
            sum(w * r for w, r in zip((1, 1, 2, 2, 3, 3), recalls, strict=True)) / 12
        )
    elif key == "min_head_tail_recall":  # two of three classes are the head
        assert found == pytest.approx(min(sum(recalls[:4]) / 4, sum(recalls[4:]) / 2))


def test_a_stack_of_matrices_of_strata_gives_a_value_each() -> None:
    stack = torch.rand(4, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # One class of many, one of medium and one of few shots: no metric is NaN.
    train = torch.tensor([300, 50, 5])
    known = dataclasses.replace(context(3), labels=stratum_labels(3, 2), train_counts=train)
    for key in OF_CLASSES:
        each = [float(METRICS[key].of_matrix(matrix, known)) for matrix in stack]
        assert METRICS[key].of_matrix(stack, known).tolist() == pytest.approx(each), key


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=1, max_size=40))
@settings(max_examples=30, deadline=None)
def test_calibration_is_bounded_by_the_mean_gap_and_below_by_the_gap_of_means(
    pairs: list[tuple[bool, float]],
) -> None:
    """Within bins gaps may cancel; over bins they may not."""
    correct, confidence = (torch.tensor(column) for column in zip(*pairs, strict=True))
    predictions = Predictions(torch.ones(len(pairs)).long(), correct.long(), confidence)
    found = predictions.value(METRICS["calibration_error"], MetricContext(torch.ones(2)))
    each = [float(c) - p for c, p in pairs]
    assert abs(sum(each)) / len(each) - 1e-6 <= found <= sum(map(abs, each)) / len(each) + 1e-6
    if len(pairs) <= 15:  # a bin for each sample
        assert found == pytest.approx(sum(map(abs, each)) / len(each), abs=1e-6)


def test_samples_that_are_taken_twice_count_twice() -> None:
    predictions = Predictions(
        torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([0.9, 0.6]), torch.tensor([1, 0])
    )
    taken = predictions.take(torch.tensor([1, 1, 0]))
    assert taken.counts(2).tolist() == [[1, 0], [2, 0]]
    assert taken.strata(2).tolist() == [2, 2, 1]
    assert predictions.take(torch.tensor([0])).correct.tolist() == [True]
    assert Predictions(predictions.labels, predictions.predicted, predictions.confidence).strata(
        2
    ).tolist() == [0, 1]
