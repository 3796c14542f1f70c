"""A part of a screen as a worker runs it: configurations in, their results as plain values out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selmix.config import FinetuneConfig
from selmix.objectives import AnyObjective
from selmix.screen import screen
from trainables.shared import Shared, keep_to_share


@dataclass(frozen=True)
class ScreenJob:
    """Task of a worker: configurations of one objective on the features of the base model.

    Attributes:
        objective: of the sweep.
        configs: flat settings, each with what a frozen backbone has.
        seed: of the draws of each.
        folds: of the cross-fitted score.
        cross_fit_best: configurations, the best on select, that get one.
    """

    objective: str
    configs: Sequence[dict[str, Any]]
    seed: int
    folds: int
    cross_fit_best: int


@dataclass(frozen=True)
class ScreenPart:
    """Results of a job, configuration by configuration.

    Attributes:
        results: columns of the table of a screen, without the settings.
        predicted: class of each held-out sample by the run without its fold, shape (n,), int64; None where a
            configuration has none.
        confidence: probability of that class, shape (n,), float32; likewise.
        labels: class of each held-out sample, feedback before select, shape (n,).
        groups: of each; None where the data have none.
        fold_of: fold of each, shape (n,).
        reason: why nothing was cross-fitted; empty where it was.
        seconds: of work.
    """

    results: Sequence[dict[str, Any]]
    predicted: Sequence[Tensor | None]
    confidence: Sequence[Tensor | None]
    labels: Tensor | None
    groups: Tensor | None
    fold_of: Tensor | None
    reason: str
    seconds: float


RESULTS = (
    "value", "score", "violation", "cross_fitted", "cross_fitted_violation", "rounds", "steps", "best_round",
    "best_steps", "stop_reason", "seconds",
)  # fmt: skip
"""Columns of a screened configuration, beside its id, seed and settings."""


def screen_part(shared: Shared, job: ScreenJob, gpu: float) -> ScreenPart:
    """Run a part of a screen.

    Args:
        shared: of the sweep.
        job: the configurations.
        gpu: GPUs of this worker, or its share of one.
    """
    torch.set_num_threads(shared.threads)
    keep_to_share(gpu)
    objective: AnyObjective = job.objective
    found = screen(
        shared.on_device(), shared.bases[job.objective], objective,
        [FinetuneConfig(**config) for config in job.configs], [job.seed] * len(job.configs),
        shared.rules[job.objective], folds=job.folds, cross_fit_best=job.cross_fit_best,
    )  # fmt: skip
    held_out = found.held_out
    first = next((each for each in held_out if each is not None), None)
    return ScreenPart(
        [{name: getattr(row, name) for name in RESULTS} for row in found.rows],
        [None if each is None else each.predicted for each in held_out],
        [None if each is None else each.confidence for each in held_out],
        None if first is None else first.labels, None if first is None else first.groups, found.fold_of,
        found.not_cross_fitted, found.seconds,
    )  # fmt: skip
