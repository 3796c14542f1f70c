"""Counts, C, its smoothing, and the gradient through the logits."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from selmix.confusion import (
    class_confusion,
    confusion_counts,
    coverage,
    joint_confusion,
    logit_gradient,
    precisions,
    recalls,
    smooth_confusion,
    smooth_rows,
)
from selmix.definitions import Definitions
from selmix.multipliers import MultiplierSettings, worst_case_multipliers
from selmix.objectives import OBJECTIVES, ObjectiveContext, bind_objective

DEFINED = Definitions(
    cvar_fraction=0.4,
    recall_weights=(1.0, 0.0, 2.0, 1.0, 3.0, 1.0),
    cost_matrix=tuple(tuple(float((3 * k + j) % 5 * (k != j)) for j in range(6)) for k in range(6)),
)


def test_counts_by_loop() -> None:
    g = torch.Generator().manual_seed(0)
    strata, predictions = torch.randint(5, (300,), generator=g), torch.randint(3, (300,), generator=g)
    expected = torch.zeros(5, 3, dtype=torch.int64)
    for s, p in zip(strata.tolist(), predictions.tolist(), strict=True):
        expected[s, p] += 1
    assert torch.equal(confusion_counts(strata, predictions, 5, 3), expected)


@pytest.mark.parametrize(
    ("strata", "predictions", "message"),
    [
        ([0, 5], [0, 0], "strata"),
        ([0, 1], [0, 3], "predictions"),
        ([0], [0, 1], "one length"),
        ([-1], [0], "strata"),
    ],
)
def test_counts_refuse(strata: list[int], predictions: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_counts(torch.tensor(strata), torch.tensor(predictions), 5, 3)


def test_smoothing_keeps_the_prior() -> None:
    counts = torch.tensor([[0, 10, 0], [1, 1, 2], [0, 0, 30]])
    smoothed = smooth_confusion(counts, 0.5)
    assert (smoothed > 0).all()
    assert torch.allclose(smoothed.sum(dim=1), counts.sum(dim=1).double() / 44)
    assert smoothed[0, 0] / smoothed[0].sum() == pytest.approx(0.5 / 11.5)
    assert joint_confusion(counts).sum() == pytest.approx(1.0)


def test_smoothing_refuses() -> None:
    with pytest.raises(ValueError, match=r"none for \[1\]"):
        smooth_confusion(torch.tensor([[1, 0], [0, 0]]))
    with pytest.raises(ValueError, match="must be > 0"):
        smooth_confusion(torch.ones(2, 2), 0.0)
    with pytest.raises(ValueError, match="at least one sample"):
        joint_confusion(torch.zeros(2, 2))


def rows_by_loop(counts: list[list[float]], amount: float, labels: list[int]) -> list[list[float]]:
    """One count a row, shaped as all rows together, spelled out."""
    classes, total = len(counts[0]), sum(map(sum, counts))
    hits = sum(row[label] for row, label in zip(counts, labels, strict=True))
    recall = min(max(hits / total, 0.02), 0.98)
    errors = [
        sum(row[k] for row, label in zip(counts, labels, strict=True) if label != k) for k in range(classes)
    ]
    found = []
    for row, label in zip(counts, labels, strict=True):
        others = sum(errors[k] for k in range(classes) if k != label)
        shape = [
            recall if k == label
            else (1 - recall) * (errors[k] / others if others else 1 / (classes - 1))
            for k in range(classes)
        ]  # fmt: skip
        rates = [(n + amount * q) / (sum(row) + amount) for n, q in zip(row, shape, strict=True)]
        found.append([rate * sum(row) / total for rate in rates])
    return found


@pytest.mark.parametrize("amount", [1.0, 0.3])
@pytest.mark.parametrize(
    ("counts", "labels"),
    [
        ([[0, 10, 0], [1, 1, 2], [0, 0, 30]], [0, 1, 2]),
        ([[5, 0, 0], [0, 5, 0], [0, 0, 9]], [0, 1, 2]),  # no error anywhere: uniform, and recall .98
        ([[0, 5, 0], [5, 0, 0], [3, 6, 0]], [0, 1, 2]),  # nothing right: recall .02
        ([[3, 0, 2], [0, 4, 0], [1, 1, 2], [0, 0, 7]], [0, 1, 1, 2]),  # cells: two strata of class 1
        ([[4, 2], [0, 9]], [0, 1]),  # the only errors lie in a class's own column: its row has a uniform rest
    ],
)
def test_smoothing_by_rows_is_its_loop(counts: list[list[float]], labels: list[int], amount: float) -> None:
    given = torch.tensor(counts)
    found = smooth_rows(given, amount, torch.tensor(labels))
    assert torch.allclose(found, torch.tensor(rows_by_loop(counts, amount, labels), dtype=torch.float64))
    assert torch.allclose(found.sum(dim=1), given.sum(dim=1).double() / given.sum())
    if labels == [0, 1, 2]:
        assert torch.equal(smooth_rows(given, amount), found)


def test_smoothing_by_rows_permutes_with_the_classes() -> None:
    counts = torch.randint(0, 9, (5, 5), generator=torch.Generator().manual_seed(0)) + torch.eye(5)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(smooth_rows(counts[order][:, order]), smooth_rows(counts)[order][:, order])


@pytest.mark.parametrize(("classes", "spread_ratio"), [(100, 1.06), (1000, 10.6)])
def test_the_class_at_zero_recall_has_the_largest_gain_at_any_number_of_classes(
    classes: int, spread_ratio: float
) -> None:
    """20 samples a class, eta = 20, the other recalls from .3. A count that is spread over the row loses the class."""
    right = torch.linspace(6, 20, classes).round().double()
    right[0] = 0.0
    counts = torch.diag(right)
    counts[torch.arange(classes), (torch.arange(classes) + 1) % classes] = 20.0 - right
    counts[-1, 0], counts[-1, 1] = 0.0, 20.0 - right[-1]  # nothing is predicted as the class
    weights = worst_case_multipliers(recalls(counts), MultiplierSettings(lr=20.0))
    psi = bind_objective("min_recall", ObjectiveContext(multipliers=weights))

    def others_against_it(confusion: torch.Tensor) -> float:
        gains = logit_gradient(psi, confusion).diagonal()
        return float(gains[1:].max() / gains[0])

    assert others_against_it(smooth_confusion(counts, 1.0 / classes)) == pytest.approx(spread_ratio, rel=0.01)
    assert others_against_it(smooth_rows(counts)) < 0.03


def test_smoothing_by_rows_refuses() -> None:
    with pytest.raises(ValueError, match=r"none for \[1\]"):
        smooth_rows(torch.tensor([[1, 0], [0, 0]]))
    with pytest.raises(ValueError, match=r"must be > 0 counts per row, got 0\.0"):
        smooth_rows(torch.ones(2, 2), 0.0)


def test_recalls_and_coverage() -> None:
    matrix = torch.tensor([[4.0, 1.0], [2.0, 2.0], [0.0, 1.0]], dtype=torch.float64)
    assert recalls(matrix, torch.tensor([0, 1, 1])).tolist() == [0.8, 0.5, 1.0]
    assert recalls(matrix[:2]).tolist() == [0.8, 0.5]
    assert coverage(matrix).tolist() == [6.0, 4.0]


def test_strata_of_a_class_are_added_up() -> None:
    matrix = torch.tensor([[4.0, 1.0], [2.0, 2.0], [0.0, 1.0]], dtype=torch.float64)
    assert class_confusion(matrix, torch.tensor([0, 1, 1])).tolist() == [[4.0, 1.0], [2.0, 3.0]]
    assert class_confusion(matrix) is matrix
    assert precisions(torch.tensor([[3.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 2.0, 0.0]])).tolist() == [
        0.75,
        0.25,
        0.0,
    ]


@pytest.mark.parametrize("name", [name for name, entry in OBJECTIVES.items() if not entry.of_groups])
@pytest.mark.parametrize("seed", range(3))
def test_logit_gradient_by_finite_steps(name: str, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    counts = 20 * torch.rand(6, 6, generator=g, dtype=torch.float64) + 5 * torch.eye(6, dtype=torch.float64)
    confusion = smooth_confusion(counts * torch.rand(6, 1, generator=g, dtype=torch.float64) + 1.0)
    objective = constant_multipliers(name, confusion)
    gradient = logit_gradient(objective, confusion)
    prior = confusion.sum(dim=1, keepdim=True)
    logits = (confusion / prior).log()
    step = 1e-6
    for i, j in ((0, 0), (1, 4), (5, 2)):
        nudge = torch.zeros_like(logits)
        nudge[i, j] = step
        up, down = (objective(prior * torch.softmax(logits + s * nudge, dim=1)) for s in (1.0, -1.0))
        assert float((up - down) / (2 * step)) == pytest.approx(float(gradient[i, j]), abs=1e-8)
    assert torch.allclose(gradient.sum(dim=1), torch.zeros(6, dtype=torch.float64), atol=1e-12)


def constant_multipliers(name: str, confusion: torch.Tensor):  # type: ignore[no-untyped-def]
    """The objective with the multipliers it has at ``confusion`` held, as the gradient holds them."""
    from selmix.objectives import coverage_multipliers, head_tail_recalls

    context = ObjectiveContext(definitions=DEFINED)
    if name.endswith("coverage"):
        held = coverage_multipliers(confusion, context, by_group="head_tail" in name)
        fixed = dataclasses.replace(context, coverage_multipliers=held)
    elif name.startswith("min_"):
        weights = torch.eye(6, dtype=torch.float64)
        if name == "min_head_tail_recall":
            _, weights = head_tail_recalls(confusion, context)
            assert weights is not None
        values = precisions(confusion) if name == "min_precision" else recalls(confusion)
        held = worst_case_multipliers(weights @ values, MultiplierSettings()) @ weights
        fixed = dataclasses.replace(context, multipliers=held)
    else:
        fixed = context
    return lambda matrix: OBJECTIVES[name](matrix, fixed)


def test_logit_gradient_refuses() -> None:
    confusion = smooth_confusion(torch.eye(3) * 5)
    # In one line, whatever its size.
    with pytest.raises(ValueError, match=r"scalar tensor .*, got a tensor of shape \(3,\)$"):
        logit_gradient(lambda c: c.sum(dim=0), confusion)
    with pytest.raises(ValueError, match="scalar tensor"):
        logit_gradient(lambda c: torch.tensor(1.0), confusion)
    with pytest.raises(ValueError, match="finite"):
        logit_gradient(lambda c: (c - c).sum() / (c - c).sum(), confusion)
