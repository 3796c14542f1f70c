"""The class-balanced head: the minimum of its loss, whatever the sizes of classes and strata are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from selmix.baselines.last_layer import WEIGHT_DECAYS, balanced_logistic_regression, tuned_head
from selmix.data.splits import Split, join
from selmix.model import ClassifierView
from selmix.models import ModelConfig
from tests.selmix.baselines.tasks import score_by_hand, small_task


def problem(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features (48, 3) of unequal scale, labels of three classes, and a cell of each sample."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(torch.tensor([30, 12, 6]))
    features = (torch.randn(48, 3, generator=g) + torch.eye(3)[labels]) * torch.tensor(
        [1.0, 50.0, 0.01]
    ) + 7.0
    return features, labels, 2 * labels + (torch.arange(48) % 3 == 0).long()


@pytest.mark.parametrize("by_stratum", [False, True])
@pytest.mark.parametrize("decay", [1e-3, 1e-1])
def test_the_head_is_where_the_gradient_vanishes(by_stratum: bool, decay: float) -> None:
    """In standardised features, every class (or stratum) weighing the same; the loss is strictly convex in W."""
    features, labels, strata = problem(0)
    cells = strata if by_stratum else labels
    weight, bias = balanced_logistic_regression(features, labels, 3, decay, strata if by_stratum else None)
    x = features.double()
    mean, scale = x.mean(dim=0), ((x - x.mean(dim=0)) ** 2).mean(dim=0).sqrt()
    residuals = torch.softmax(x @ weight.T + bias, dim=1) - torch.eye(3)[labels]
    sizes, number = torch.bincount(cells)[cells], len(cells.unique())
    residuals = residuals / (sizes * number).unsqueeze(1)
    assert residuals.sum(dim=0).abs().max() < 1e-6
    gradient = residuals.T @ ((x - mean) / scale) + decay * weight * scale
    assert gradient.abs().max() < 1e-6


def test_the_head_is_that_of_plain_gradient_descent() -> None:
    features, labels, _ = problem(1)
    x = features.double()
    z = (x - x.mean(dim=0)) / x.std(dim=0, unbiased=False)
    share = 1.0 / (torch.bincount(labels)[labels].double() * 3).unsqueeze(1)
    targets = torch.eye(3, dtype=torch.float64)[labels]
    weight, bias = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for _ in range(1500):
        residuals = share * ((z @ weight.T + bias).softmax(dim=1) - targets)
        weight, bias = weight - 0.8 * (residuals.T @ z + 0.1 * weight), bias - 0.8 * residuals.sum(dim=0)
    found = balanced_logistic_regression(features, labels, 3, 0.1)
    assert torch.allclose(x @ found[0].T + found[1], z @ weight.T + bias, atol=1e-5)


@pytest.mark.parametrize("by_stratum", [False, True])
def test_more_samples_of_a_class_or_stratum_do_not_weigh_more(by_stratum: bool) -> None:
    """Copied whole, a class keeps its mean loss; without decay the standardisation, which copies move, is no matter."""
    features, labels, strata = problem(2)
    cells = strata if by_stratum else labels
    more = torch.cat([torch.arange(48), torch.nonzero(cells == 1).flatten()])
    shares = []
    for rows in (torch.arange(48), more):
        given = strata[rows] if by_stratum else None
        weight, bias = balanced_logistic_regression(features[rows], labels[rows], 3, 0.0, given)
        shares.append(torch.softmax(features.double() @ weight.T + bias, dim=1))
    assert torch.allclose(*shares, atol=1e-5)


def test_a_constant_feature_gets_no_weight_and_divides_nothing_by_zero() -> None:
    features, labels, _ = problem(3)
    wide = torch.cat([features, torch.full((48, 1), 0.1)], dim=1)
    weight, bias = balanced_logistic_regression(wide, labels, 3, 1e-2)
    plain, offset = balanced_logistic_regression(features, labels, 3, 1e-2)
    assert torch.isfinite(weight).all()
    assert weight[:, 3].abs().max() < 1e-9
    assert torch.allclose(wide.double() @ weight.T + bias, features.double() @ plain.T + offset, atol=1e-5)


def test_strata_may_be_numbered_with_gaps() -> None:
    features, labels, strata = problem(4)
    plain = balanced_logistic_regression(features, labels, 3, 1e-2, strata)
    spread = balanced_logistic_regression(features, labels, 3, 1e-2, 7 * strata + 2)
    assert all(torch.equal(one, other) for one, other in zip(plain, spread, strict=True))


def test_the_weight_decay_is_the_best_on_select_and_of_equals_the_largest() -> None:
    task = small_task()
    pool = join(task.data.train, task.data.feedback)
    head, decay = tuned_head(task.view(task.base.state), pool, task.data, task.selection)
    scores = {}
    for each in WEIGHT_DECAYS:
        fitted = balanced_logistic_regression(pool.whole(), pool.labels, 3, each)
        scores[each] = score_by_hand(task, *(part.float() for part in fitted))
    assert decay == max(WEIGHT_DECAYS, key=lambda each: (scores[each], each))
    assert head["weight"].dtype == head["bias"].dtype == torch.float32
    assert score_by_hand(task, head["weight"], head["bias"]) == scores[decay]


def test_every_decay_ties_where_classes_lie_far_apart() -> None:
    labels = torch.arange(2).repeat(10)
    split = Split(100.0 * torch.eye(2)[labels], labels)
    task = small_task()
    data = type(task.data)("far", ("a", "b"), split, split, split, {})
    view = ClassifierView(ModelConfig("linear_head").build((2,), 2))
    assert tuned_head(view, split, data, task.selection)[1] == max(WEIGHT_DECAYS)
