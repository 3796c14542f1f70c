"""Parts of a screen as a worker runs them: configurations ranked on select, the best of them judged fold by fold."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from selmix.config import FinetuneConfig
from selmix.screen import Screened
from selmix.screen.cross_fit import FoldFit, folds_of
from selmix.screen.screening import judged_on_fold, on_features, ranked
from trainables.shared import Shared, keep_to_share


@dataclass(frozen=True)
class ScreenJob:
    """Task of a worker: configurations of one objective on the features of the base model.

    Attributes:
        objective: of the sweep.
        configs: flat settings, each with what a frozen backbone has.
        seed: of the draws of each.
    """

    objective: str
    configs: Sequence[dict[str, Any]]
    seed: int


@dataclass(frozen=True)
class FoldJob(ScreenJob):
    """Task of a worker: the same on all folds but one, which judges them.

    Attributes:
        fold: that judges.
        folds: F.
    """

    fold: int
    folds: int


@dataclass(frozen=True)
class RankedPart:
    """Configurations of a job as they ended, without their heads: what is promoted is trained again.

    Attributes:
        rows: in the order of the job.
        seconds: of work.
    """

    rows: tuple[Screened, ...]
    seconds: float


def rank_part(shared: Shared, job: ScreenJob, gpu: float) -> RankedPart:
    """Run configurations to their ends.

    Args:
        shared: of the sweep.
        job: the configurations.
        gpu: GPUs of this worker, or its share of one.
    """
    started = _begin(shared, gpu)
    rows = ranked(
        *on_features(shared.on_device(), shared.base_with_features(job.objective)), job.objective, _configs(job),
        [job.seed] * len(job.configs), shared.rules[job.objective],
    )  # fmt: skip
    return RankedPart(tuple(replace(row, head=None) for row in rows), time.perf_counter() - started)


def judge_part(shared: Shared, job: FoldJob, gpu: float) -> FoldFit:
    """Judge configurations on a fold; arguments as of :func:`rank_part`.

    Samples that cannot be split into folds are no failure of the screen: the reason is returned.
    """
    started = _begin(shared, gpu)
    data, base = shared.on_device(), shared.base_with_features(job.objective)
    try:
        fold_of = folds_of(data, base, job.folds)
    except ValueError as error:
        return FoldFit(reason=str(error))
    found = judged_on_fold(
        *on_features(data, base), job.objective, _configs(job), [job.seed] * len(job.configs),
        shared.rules[job.objective], fold_of, job.fold,
    )  # fmt: skip
    return replace(found, seconds=time.perf_counter() - started)


def _begin(shared: Shared, gpu: float) -> float:
    # One and two threads give different bits: as many as a trial has.
    torch.set_num_threads(shared.threads)
    keep_to_share(gpu)
    return time.perf_counter()


def _configs(job: ScreenJob) -> list[FinetuneConfig]:
    return [FinetuneConfig(**config) for config in job.configs]
