"""A part of a screen as a worker runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from selmix.config import FinetuneConfig
from selmix.screen import ScreenResult, screen
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


def screen_part(shared: Shared, job: ScreenJob, gpu: float) -> ScreenResult:
    """Run a part of a screen; its heads stay behind, as what is promoted is trained again.

    Args:
        shared: of the sweep.
        job: the configurations.
        gpu: GPUs of this worker, or its share of one.
    """
    torch.set_num_threads(shared.threads)
    keep_to_share(gpu)
    found = screen(
        shared.on_device(), shared.base_with_features(job.objective), job.objective,
        [FinetuneConfig(**config) for config in job.configs], [job.seed] * len(job.configs),
        shared.rules[job.objective], folds=job.folds, cross_fit_best=job.cross_fit_best,
    )  # fmt: skip
    return replace(found, rows=tuple(replace(row, head=None) for row in found.rows))
