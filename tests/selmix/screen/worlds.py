"""Tiny worlds of features, and the single run that a row of a screen must equal."""

from __future__ import annotations

import torch

from selmix.config import FinetuneConfig
from selmix.data.splits import Split, SweepData
from selmix.models import ModelConfig
from selmix.objectives import AnyObjective
from selmix.run.run import Run
from selmix.run.start_model import Base
from selmix.statistics.selection import SelectionRule

CLASSES, DIM = 4, 5


def world(groups: int = 0, seed: int = 0, held_out: int = 12) -> tuple[SweepData, Base]:
    """Long-tailed Gaussians, and a base whose heads are far from good."""
    g = torch.Generator().manual_seed(seed)
    means = 1.5 * torch.randn(CLASSES, DIM, generator=g)

    def split(sizes: list[int]) -> Split:
        labels = torch.repeat_interleave(torch.arange(CLASSES), torch.tensor(sizes))
        inputs = means[labels] + torch.randn(len(labels), DIM, generator=g)
        # In turn, so that every cell has samples.
        return Split(inputs, labels, torch.arange(len(labels)) % groups if groups else None)

    parts = split([40, 24, 14, 8]), split([held_out] * CLASSES), split([held_out] * CLASSES)
    names = tuple(f"class{k}" for k in range(CLASSES))
    data = SweepData("tiny", names, *parts, {}, tuple("ab"[:groups]))
    given, balanced = (
        {
            "weight": 0.3 * torch.randn(CLASSES, DIM, generator=g),
            "bias": 0.1 * torch.randn(CLASSES, generator=g),
        }
        for _ in range(2)
    )
    state = {f"head.{name}": value for name, value in given.items()}
    return data, Base(ModelConfig("linear_head"), state, balanced)


def single(
    data: SweepData, base: Base, objective: AnyObjective, config: FinetuneConfig, seed: int, rule: SelectionRule
) -> Run:  # fmt: skip
    """The run of the single fine-tuner, at its end."""
    run = Run(data, base, objective, config, seed, rule)
    while not run.finished:
        run.step()
    return run
