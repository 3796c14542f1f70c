"""Estimates of many rows against the single fine-tuner's, row by row: confusions, multipliers, gradients, gains."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from selmix.config import FinetuneConfig
from selmix.confusion import logit_gradient
from selmix.constraints import with_constraints
from selmix.definitions import ClassRate, Definitions
from selmix.feedback import FeedbackMemory
from selmix.gain import gain_matrix
from selmix.groups import stratum_labels
from selmix.multipliers import MultiplierSettings
from selmix.objectives import OBJECTIVES, ObjectiveContext, bind_objective
from selmix.screen.feedback import Memories, gain_matrices
from selmix.statistics.selection import Constraint

K, A = 4, 2
CONFIGS = [
    FinetuneConfig(multiplier_lr=5.0, multiplier_decay=0.5, confusion_average=0.0),
    FinetuneConfig(row_smoothing=3.0, multiplier_lr=40.0, constraint_max=10.0, confusion_average=0.5),
    FinetuneConfig(confusion_smoothing=0.5, multiplier_decay=1.0, constraint_temperature=0.1),
]
DEFINITIONS = Definitions(
    recall_weights=(1.0, 2.0, 1.0, 3.0),
    cost_matrix=tuple(tuple(float(abs(i - j)) for i in range(K)) for j in range(K)),
    class_rates=(ClassRate("recall", 1),),
)
BOUNDS = (
    Constraint("min_head_tail_coverage", at_least=0.3),
    Constraint("recall", at_least=0.9, label=1),
    Constraint("cost", at_most=0.1),
)


CASES = [
    (name, cells)
    for name, entry in OBJECTIVES.items()
    for cells in (False, True)
    if cells or not entry.of_groups
]
"""Objective, and True where the strata are cells of two groups."""


@pytest.mark.parametrize("bounds", [(), BOUNDS])
@pytest.mark.parametrize(("objective", "cells"), CASES)
def test_estimates_are_those_of_one_row(objective: str, cells: bool, bounds: tuple[Constraint, ...]) -> None:
    context = ObjectiveContext(
        train_counts=torch.tensor([40, 30, 20, 10]), definitions=DEFINITIONS,
        labels=stratum_labels(K, A) if cells else None, num_groups=A if cells else 0,
    )  # fmt: skip
    strata = K * A if cells else K
    g = torch.Generator().manual_seed(0)
    many = Memories(objective, context, bounds, CONFIGS, K, torch.device("cpu"))
    ones = [FeedbackMemory(objective, _with(context, config), config, bounds) for config in CONFIGS]
    # The second round is one of two rows only: the third keeps what it remembers.
    for rows in ([0, 1, 2], [0, 2], [0, 1, 2]):
        counts = torch.randint(0, 9, (3, strata, K), generator=g) + 1
        counts[:, 0, 0] = 0
        smoothed, held = many.update(rows, counts[rows])
        gradients, problems = many.gradients(smoothed, held)
        assert problems == [None] * len(rows)
        for place, row in enumerate(rows):
            matrix, bound = ones[row].update(counts[row])
            assert torch.allclose(smoothed[place], matrix, rtol=1e-12, atol=1e-14)
            function = with_constraints(bind_objective(objective, bound), bounds, bound)
            expected = logit_gradient(function, matrix)
            assert torch.allclose(gradients[place], expected, rtol=1e-9, atol=1e-12)


def _with(context: ObjectiveContext, config: FinetuneConfig) -> ObjectiveContext:
    settings = MultiplierSettings(
        lr=config.multiplier_lr, decay=config.multiplier_decay, temperature=config.constraint_temperature,
        maximum=config.constraint_max,
    )  # fmt: skip
    return dataclasses.replace(context, settings=settings)


@pytest.mark.parametrize("scale", [1.0, 400.0])
@pytest.mark.parametrize("cells", [False, True])
def test_gains_are_those_of_one_head(scale: float, cells: bool) -> None:
    g = torch.Generator().manual_seed(1)
    strata, dim = (K * A if cells else K), 5
    labels = stratum_labels(K, A) if cells else None
    configs = [
        FinetuneConfig(coefficient_min=0.2),
        FinetuneConfig(gain_formula="released_code"),
        FinetuneConfig(gain_with_bias=True, coefficient_min=1.0),
        FinetuneConfig(gain_with_bias=True, gain_formula="released_code"),
    ]
    prototypes = torch.randn(strata, dim, generator=g, dtype=torch.float64)
    # At the larger scale logits lie hundreds apart, and the factors of the closed form underflow.
    weight = scale * torch.randn(4, K, dim, generator=g)
    bias, gradients = torch.randn(4, K, generator=g), torch.randn(4, strata, K, generator=g).double()
    found = gain_matrices(prototypes, weight, bias, gradients, configs, labels)
    for row, config in enumerate(configs):
        expected = gain_matrix(
            prototypes, weight[row], bias[row], gradients[row], config.mixup_coefficient, labels,
            formula=config.gain_formula, with_bias=config.gain_with_bias,
        )  # fmt: skip
        assert torch.allclose(found[row], expected, rtol=1e-10, atol=1e-12)
