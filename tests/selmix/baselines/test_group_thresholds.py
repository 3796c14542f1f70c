"""Thresholds by group: the best there are for two classes by brute force, and what constraints forbid."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from selmix.baselines import BASELINES
from selmix.baselines.group_thresholds import group_thresholds
from selmix.confusion import confusion_counts
from selmix.groups import class_counts
from selmix.metrics import MetricContext, compute_metric
from selmix.statistics.selection import Constraint, SelectionRule
from tests.selmix.baselines.tasks import small_task

GAPS = ["equal_opportunity_gap", "equalized_odds_gap", "demographic_parity_gap"]


def problem(classes: int, count: int = 40, groups: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities that lean to class 0 in group 0, labels, and groups."""
    g = torch.Generator().manual_seed(classes)
    labels = torch.arange(count) % classes
    attribute = (torch.arange(count) // classes) % groups
    logits = torch.randn(count, classes, generator=g) + 1.5 * torch.eye(classes)[labels]
    logits[:, 0] += torch.where(attribute == 0, 1.5, -0.5)
    return torch.softmax(logits, dim=1), labels, attribute


def value(
    metric: str, p: Tensor, labels: Tensor, groups: Tensor, offsets: Tensor, context: MetricContext
) -> float:
    classes = p.shape[1]
    predicted = (p + offsets[groups]).argmax(dim=1)
    cells = confusion_counts(
        labels * context.num_groups + groups, predicted, classes * context.num_groups, classes
    )
    if metric in GAPS or metric == "worst_group_recall":
        return float(compute_metric(metric, cells, context))
    return float(compute_metric(metric, class_counts(cells.double(), context.num_groups), context))


@pytest.mark.parametrize("metric", ["worst_group_recall", "accuracy"])
def test_two_classes_reach_the_best_of_all_pairs_of_thresholds(metric: str) -> None:
    p, labels, groups = problem(2)
    context = MetricContext(torch.tensor([20, 20]), num_groups=2)
    found = group_thresholds(p, labels, groups, SelectionRule(metric), context)
    points = torch.linspace(-1, 1, 161).tolist()
    best = max(
        value(metric, p, labels, groups, torch.tensor([[0.0, a], [0.0, b]]), context)
        for a, b in itertools.product(points, points)
    )
    assert value(metric, p, labels, groups, found, context) >= best - 1e-9


@pytest.mark.parametrize("metric", GAPS)
@pytest.mark.parametrize("classes", [2, 4])
def test_a_gap_shrinks_and_a_floor_on_accuracy_holds(metric: str, classes: int) -> None:
    """Without a floor the smallest gap is that of a constant label: the constraint comes first."""
    p, labels, groups = problem(classes, 80)
    context = MetricContext(torch.full((classes,), 20), num_groups=2)
    plain = torch.zeros(2, classes)
    floor = value("accuracy", p, labels, groups, plain, context) - 0.05
    rule = SelectionRule(metric, constraints=(Constraint("accuracy", at_least=floor),))
    found = group_thresholds(p, labels, groups, rule, context)
    assert value("accuracy", p, labels, groups, found, context) >= floor
    assert value(metric, p, labels, groups, found, context) < value(metric, p, labels, groups, plain, context)


def test_a_floor_on_the_recall_of_a_class_comes_first() -> None:
    p, labels, groups = problem(3, 60)
    context = MetricContext(torch.full((3,), 20), num_groups=2)
    floor = Constraint("recall", at_least=0.9, label=1)
    rule = SelectionRule("demographic_parity_gap", constraints=(floor,))
    found = group_thresholds(p, labels, groups, rule, context)
    recall = float(((p + found[groups]).argmax(dim=1)[labels == 1] == 1).double().mean())
    assert recall >= 0.9 > float((p.argmax(dim=1)[labels == 1] == 1).double().mean())


def test_a_group_without_samples_keeps_zeros_and_nothing_moves_where_nothing_helps() -> None:
    p, labels, _ = problem(3)
    context = MetricContext(torch.tensor([5, 5, 5]), num_groups=3)
    middle = torch.ones(40, dtype=torch.int64)
    found = group_thresholds(p, labels, middle, SelectionRule("worst_group_recall"), context)
    assert found.shape == (3, 3)
    assert torch.equal(found[[0, 2]], torch.zeros(2, 3))
    perfect = torch.eye(3)[labels]
    rule = SelectionRule("worst_group_recall")
    assert torch.equal(group_thresholds(perfect, labels, middle, rule, context), torch.zeros(3, 3))


def test_many_classes_run_with_fewer_candidates() -> None:
    p, labels, groups = problem(60, 240)
    context = MetricContext(torch.full((60,), 4), num_groups=2)
    found = group_thresholds(p, labels, groups, SelectionRule("mean_recall"), context)
    after, before = (value("mean_recall", p, labels, groups, o, context) for o in (found, torch.zeros(2, 60)))
    assert after > before


def test_what_cannot_be_searched_is_refused() -> None:
    p, labels, groups = problem(2)
    with pytest.raises(ValueError, match="need data with a group attribute"):
        group_thresholds(p, labels, groups, SelectionRule("min_recall"), MetricContext(torch.tensor([1, 1])))
    context = MetricContext(torch.tensor([1, 1]), num_groups=2)
    with pytest.raises(ValueError, match="calibration_error, which is no metric of counts"):
        group_thresholds(p, labels, groups, SelectionRule("calibration_error"), context)


@pytest.mark.parametrize("name", ["thresholds_by_group", "linear_post_processing"])
@pytest.mark.parametrize("metric", [*GAPS, "worst_group_recall", "min_recall"])
def test_the_rows_hold_offsets_by_group_beside_the_base_weights(name: str, metric: str) -> None:
    task = small_task(groups=2, metric=metric)
    (state,) = BASELINES[name].fit(task).states
    assert state["correction.group_offset"].shape == (2, 3)
    assert torch.equal(state["head.weight"], task.base.state["head.weight"])
    predictions = task.predictions(state, task.data.select)
    prior = task.data.feedback.counts(3).double() / 60
    train = task.data.train_counts.double() / task.data.train_counts.sum()
    logits = task.logits(task.base.state, task.data.select) + (prior / train).log().float()
    groups = task.data.select.groups
    assert groups is not None
    by_hand = (logits.softmax(dim=1) + state["correction.group_offset"][groups]).argmax(dim=1)
    assert torch.equal(predictions.predicted, by_hand)


@pytest.mark.parametrize("name", ["thresholds_by_group", "linear_post_processing"])
def test_the_rows_refuse_data_without_groups(name: str) -> None:
    with pytest.raises(
        ValueError, match="correction by group needs data with a group attribute, gaussians has none"
    ):
        BASELINES[name](small_task())
