"""LinearPost: against all pairs of thresholds for two classes, and its rates for many."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from selmix.baselines.linear_post import Criterion, criterion_of, linear_post
from tests.selmix.baselines.test_group_thresholds import problem


def rates(p: Tensor, groups: Tensor, predicted: Tensor, criterion: Criterion) -> Tensor:
    """Expected rates by group, shape (A, M), in a loop."""
    rows = []
    for a in groups.unique().tolist():
        q, hard = p[groups == a].double(), predicted[groups == a]
        if criterion == "parity":
            rows.append([float((hard == k).double().mean()) for k in range(p.shape[1])])
        else:
            sides = (1,) if criterion == "opportunity" else (0, 1)
            rows.append([float((q[:, y] * (hard == 1)).sum() / q[:, y].sum()) for y in sides])
    return torch.tensor(rows)


def gap(p: Tensor, groups: Tensor, predicted: Tensor, criterion: Criterion) -> float:
    by_group = rates(p, groups, predicted, criterion)
    return float((by_group.amax(dim=0) - by_group.amin(dim=0)).max())


def errors(p: Tensor, predicted: Tensor) -> float:
    return float((1.0 - p.double().gather(1, predicted.unsqueeze(1))).sum())


@pytest.mark.parametrize("criterion", ["parity", "opportunity", "odds"])
@pytest.mark.parametrize("tolerance", [0.02, 0.1, 0.3])
def test_two_classes_have_as_few_errors_as_the_best_thresholds(
    criterion: Criterion, tolerance: float
) -> None:
    p, _, groups = problem(2, 400)
    offsets = linear_post(p, groups, 2, criterion, tolerance)
    predicted = (p + offsets[groups]).argmax(dim=1)
    # The program may draw the label of a sample for each rate and group; here it has one.
    slack = 2 / 100
    assert gap(p, groups, predicted, criterion) <= tolerance + slack
    grid = torch.linspace(-1, 1, 81).tolist()
    allowed = [
        errors(p, tried)
        for a, b in itertools.product(grid, grid)
        for tried in [(p + torch.tensor([[0.0, a], [0.0, b]])[groups]).argmax(dim=1)]
        if gap(p, groups, tried, criterion) <= tolerance
    ]
    assert errors(p, predicted) <= min(allowed) + 1.0


@pytest.mark.parametrize("classes", [3, 6])
@pytest.mark.parametrize("groups", [2, 3])
def test_parity_of_many_classes_and_groups(classes: int, groups: int) -> None:
    p, _, attribute = problem(classes, 360, groups)
    plain = gap(p, attribute, p.argmax(dim=1), "parity")
    before = 0.0
    for tolerance in (0.3, 0.1, 0.02):
        predicted = (p + linear_post(p, attribute, groups, "parity", tolerance)[attribute]).argmax(dim=1)
        assert gap(p, attribute, predicted, "parity") <= tolerance + classes / 120 < plain
        # A tighter tolerance costs errors, up to the samples whose labels the program would draw.
        assert errors(p, predicted) >= before - 1.0
        before = errors(p, predicted)


def test_a_tolerance_that_binds_nothing_changes_nothing() -> None:
    p, _, groups = problem(4, 80)
    offsets = linear_post(p, groups, 2, "parity", 1.0)
    assert torch.equal((p + offsets[groups]).argmax(dim=1), p.argmax(dim=1))


def test_a_group_without_samples_has_zeros() -> None:
    p, _, groups = problem(3, 60)
    offsets = linear_post(p, 2 * groups, 4, "parity", 0.0)
    assert torch.equal(offsets[[1, 3]], torch.zeros(2, 3))


def test_criterion_of_a_metric() -> None:
    assert criterion_of("equal_opportunity_gap", 2) == "opportunity"
    assert criterion_of("equalized_odds_gap", 2) == "odds"
    assert criterion_of("equalized_odds_gap", 3) == criterion_of("demographic_parity_gap", 2) == "parity"


def test_what_cannot_be_solved_is_refused() -> None:
    p, _, groups = problem(3, 60)
    with pytest.raises(ValueError, match="offsets by group meet odds with two classes only, got 3"):
        linear_post(p, groups, 2, "odds", 0.1)
    with pytest.raises(ValueError, match=r"tolerance must lie in \[0, 1\], got 1.5"):
        linear_post(p, groups, 2, "parity", 1.5)
    with pytest.raises(ValueError, match=r"at most 1,000,000 samples x classes is solved, got 2000 x 1000"):
        linear_post(torch.zeros(2000, 1000), torch.zeros(2000, dtype=torch.int64), 2, "parity", 0.1)
