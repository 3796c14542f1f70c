"""Corrections of the logits: the formula, and a search that leaves no better bias on any line."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selmix.baselines.line_search import BiasedLogits
from selmix.baselines.post_hoc import bias_search, equalising_biases, logit_adjustment
from selmix.baselines.tally import Tally
from selmix.groups import strata_of
from selmix.metrics import METRICS, MetricContext, Predictions
from selmix.statistics.selection import Constraint

OF_CLASSES = ("min_recall", "g_mean", "macro_f1", "min_precision", "recall_gap", "min_coverage", "accuracy")
OF_GROUPS = ("worst_group_recall", "equalized_odds_gap", "demographic_parity_gap")


Sample = tuple[Tensor, Tensor, Tensor, MetricContext]


def sample(seed: int, classes: int = 3, count: int = 12, groups: int = 0) -> Sample:
    """Logits that lean to class 0, labels, groups and a context."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    logits = torch.randn(count, classes, generator=g) + 1.5 * torch.eye(classes)[labels]
    logits[:, 0] += 1.5
    counts = torch.arange(classes, 0, -1) * 10
    return (
        logits,
        labels,
        torch.arange(count) // classes % max(1, groups),
        MetricContext(counts, num_groups=groups),
    )


def signed(
    key: str, logits: Tensor, labels: Tensor, groups: Tensor, context: MetricContext
) -> tuple[float, float]:
    """Metric, higher is better, and mean recall, by which the search decides ties."""
    predictions = Predictions.from_logits(labels, logits, groups if context.num_groups else None)
    value, recall = (predictions.value(METRICS[name], context) for name in (key, "mean_recall"))
    return METRICS[key].sign * value, recall


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=6), st.floats(0, 3))
@settings(max_examples=30, deadline=None)
def test_adjustment_is_minus_tau_log_prior(counts: list[int], tau: float) -> None:
    held = [max(1, count) for count in counts]  # a class without samples counts as one sample
    expected = [-tau * math.log(count / sum(held)) for count in held]
    found = logit_adjustment(torch.tensor(counts), tau)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("key", OF_CLASSES + OF_GROUPS)
@pytest.mark.parametrize("seed", range(3))
def test_no_bias_on_any_line_through_the_result_is_better(key: str, seed: int) -> None:
    groups = 2 if key in OF_GROUPS else 0
    logits, labels, group, context = sample(seed, groups=groups)
    bias = bias_search(logits, labels, key, context, group if groups else None)
    found = signed(key, logits.double() + bias, labels, group, context)
    assert found >= signed(key, logits, labels, group, context)
    for k in range(3):
        others = logits.double() + bias
        flips = sorted((others.amax(dim=1, keepdim=True) - others[:, k : k + 1]).flatten().tolist())
        for step in [*(-x - 1e-4 for x in flips), *(x + 1e-4 for x in flips), -9.0, 9.0]:
            moved = others.clone()
            moved[:, k] += step
            assert signed(key, moved, labels, group, context) <= (found[0] + 1e-12, found[1] + 1e-12), (
                k,
                step,
            )


@pytest.mark.parametrize("key", OF_GROUPS)
@pytest.mark.parametrize("seed", range(3))
def test_of_two_classes_the_bias_is_the_best_for_groups_too(key: str, seed: int) -> None:
    """With two classes only the difference of the biases matters: every one that changes a prediction is tried."""
    logits, labels, group, context = sample(seed, classes=2, groups=2)
    flips = (logits[:, 0] - logits[:, 1]).double().tolist()
    tried = [0.0, *(x + d for x in flips for d in (-1e-5, 1e-5))]
    best = max(signed(key, logits + torch.tensor([0.0, b]), labels, group, context) for b in tried)
    bias = bias_search(logits, labels, key, context, group)
    assert signed(key, logits + bias, labels, group, context) == pytest.approx(best)


def test_without_the_samples_groups_it_is_a_search_over_classes() -> None:
    logits, labels, _, context = sample(0, groups=2)
    plain = MetricContext(context.train_counts)
    assert torch.equal(
        bias_search(logits, labels, "g_mean", context), bias_search(logits, labels, "g_mean", plain)
    )


def test_the_groups_of_a_metric_of_classes_do_not_matter() -> None:
    logits, labels, group, context = sample(1, groups=2)
    plain = bias_search(logits, labels, "min_recall", MetricContext(context.train_counts))
    assert torch.equal(bias_search(logits, labels, "min_recall", context, group), plain)


def test_a_shift_of_all_logits_of_a_sample_changes_nothing() -> None:
    logits, labels, _, context = sample(2)
    shifted = logits.double() + torch.arange(12).double().unsqueeze(1) * 8.0
    found, plain = (bias_search(each, labels, "min_recall", context) for each in (shifted, logits))
    assert torch.allclose(found, plain, atol=1e-5)


def test_ties_of_the_metric_go_to_the_higher_mean_recall() -> None:
    """No bias predicts the sample of class 2 before all others, so the least recall is 0; class 1 is mended anyway."""
    labels = torch.tensor([0, 0, 1, 1, 2])
    logits = torch.tensor([[5.0, 0, 0], [5, 0, 0], [1, 0, 0], [1, 0, 0], [9, 9, -1e9]])
    context = MetricContext(torch.tensor([3, 2, 1]))
    assert signed("min_recall", logits, labels, labels, context) == pytest.approx((0.0, 1 / 3))
    bias = bias_search(logits, labels, "min_recall", context)
    assert signed("min_recall", logits + bias, labels, labels, context) == pytest.approx((0.0, 2 / 3))


@pytest.mark.parametrize("key", ["min_recall", "worst_group_recall"])
def test_strata_are_counted_as_the_predictions_say(key: str) -> None:
    """The search's own counts agree with those of Predictions at the bias that it returns."""
    logits, labels, group, context = sample(3, groups=2)
    bias = bias_search(logits, labels, key, context, group)
    predicted = (logits.double() + bias).argmax(dim=1)
    cells = strata_of(labels, group, 2) if key == "worst_group_recall" else labels
    recalls = [
        float((predicted[cells == cell] == labels[cells == cell]).double().mean()) for cell in cells.unique()
    ]
    assert min(recalls) == pytest.approx(signed(key, logits + bias, labels, group, context)[0])
    assert min(recalls) > signed(key, logits, labels, group, context)[0]


def test_several_starts_leave_the_local_optima_of_one() -> None:
    """Logits of unequal spread: for the least recall several biases must move together, which no line can."""
    found = []
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        labels = torch.arange(300) % 10
        logits = torch.randn(300, 10, generator=g) * (0.5 + 1.5 * torch.rand(10, generator=g))
        logits[torch.arange(300), labels] += 2.0
        context = MetricContext(torch.arange(10, 0, -1) * 10)
        samples = BiasedLogits(logits, labels, "min_recall", context, None)
        values = {"none": samples.key()}
        best = samples.key()
        for _ in range(4):
            for k in range(10):
                best = samples.search_line(k, best)
        values["one"] = best
        for name, bias in (
            ("equal", equalising_biases(samples)),
            ("search", bias_search(logits, labels, "min_recall", context).double()),
        ):
            samples.move_to(bias)
            values[name] = samples.key()
        assert values["search"] >= max(values.values())
        found.append(values["search"].value - values["one"].value)
    assert sum(found) / len(found) > 0.03


@pytest.mark.parametrize("metric", ["min_recall", "mean_recall", "macro_f1"])
@pytest.mark.parametrize("recall", [0.7, 0.95])
def test_under_bounds_it_reaches_the_best_of_a_grid(metric: str, recall: float) -> None:
    """With the first bias at 0 every pair of the two others on a grid is tried; a floor of .95 may be out of reach."""
    floors = (Constraint("recall", at_least=recall, label=2), Constraint("min_coverage", at_least=0.28))
    steps = torch.linspace(-4.0, 4.0, 81, dtype=torch.float64)
    grid = torch.cartesian_prod(torch.zeros(1, dtype=torch.float64), steps, steps)
    for seed in range(4):
        logits, labels, _, context = sample(seed, count=45)
        tally = Tally(labels, 3, metric, context, None, floors)
        tried = (logits.double() + grid.unsqueeze(1)).argmax(dim=2).unique(dim=0)
        bias = bias_search(logits, labels, metric, context, bounds=floors)
        found = tally.key((logits.double() + bias).argmax(dim=1))
        assert found >= max(tally.key(predicted) for predicted in tried)


def test_under_bounds_that_hold_anyway_nothing_worse_is_found() -> None:
    for seed in range(3):
        logits, labels, _, context = sample(seed, count=30)
        free = bias_search(logits, labels, "g_mean", context)
        predicted = (logits.double() + free).argmax(dim=1)
        tally = Tally(labels, 3, "g_mean", context, None)
        floor = Constraint("mean_recall", at_least=tally.key(predicted).mean_recall - 0.05)
        bound = bias_search(logits, labels, "g_mean", context, bounds=(floor,))
        assert tally.key((logits.double() + bound).argmax(dim=1)) >= tally.key(predicted)


def test_bounds_that_do_not_count_change_nothing() -> None:
    logits, labels, _, context = sample(4, count=30)
    plain = bias_search(logits, labels, "min_recall", context)
    left_out = (
        Constraint("accuracy", at_least=0.99, where=("method",)),
        Constraint("calibration_error", at_most=0.0, where=("search",)),
    )
    assert torch.equal(bias_search(logits, labels, "min_recall", context, bounds=left_out), plain)


def test_without_samples_nothing_is_corrected() -> None:
    empty = bias_search(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "min_recall", sample(0)[3])
    assert empty.tolist() == [0.0, 0.0, 0.0]


def test_a_class_without_samples_leaves_the_scores_as_they_are() -> None:
    logits, labels, _, context = sample(0)
    assert not bias_search(logits[labels != 1], labels[labels != 1], "min_recall", context).any()
