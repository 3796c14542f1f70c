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
)
from selmix.definitions import Definitions
from selmix.objectives import OBJECTIVES, ObjectiveContext

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
    from selmix.multipliers import MultiplierSettings, worst_case_multipliers
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
    with pytest.raises(ValueError, match="scalar tensor"):
        logit_gradient(lambda c: c.sum(dim=0), confusion)
    with pytest.raises(ValueError, match="scalar tensor"):
        logit_gradient(lambda c: torch.tensor(1.0), confusion)
    with pytest.raises(ValueError, match="finite"):
        logit_gradient(lambda c: (c - c).sum() / (c - c).sum(), confusion)
