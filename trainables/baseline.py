"""One baseline from its task to plain files and metrics, as a worker runs it."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from selmix.baselines import (
    BASELINES,
    BaselineResult,
    BaselineTask,
    CrossFitted,
    cross_fitted,
    joined,
)
from selmix.config import FinetuneConfig
from selmix.rungs import Rung
from selmix.statistics.comparison import mean_over_replicates
from selmix.statistics.intervals import Estimate, all_intervals
from selmix.weights import load_weights, save_weights, state_digest
from trainables.outcome import write_predictions
from trainables.remote import fetched, written
from trainables.shared import Shared, keep_to_share


@dataclass(frozen=True)
class BaselineJob:
    """Task of a worker: one baseline of one objective.

    Attributes:
        name: of the baseline.
        objective: of the sweep.
        config: flat settings of the best SelMix row; {} where there is none.
        winner_weights: files of its replicates, seed by seed; [] likewise.
        seeds: of the replicates.
        folder: address of the folder for its files.
    """

    name: str
    objective: str
    config: dict[str, Any]
    winner_weights: list[str]
    seeds: list[int]
    folder: str

    def parts(self) -> list[BaselineJob]:
        """Jobs of one seed each, which may be fitted side by side, where the baseline is fitted seed by seed."""
        if not BASELINES[self.name].by_seed:
            return [self]
        # Without a winner there are no weights of it; a baseline that is fitted then needs none.
        weights = [[path] for path in self.winner_weights] or [[] for _ in self.seeds]
        return [
            replace(self, winner_weights=paths, seeds=[seed])
            for paths, seed in zip(weights, self.seeds, strict=True)
        ]


@dataclass(frozen=True)
class Fitted:
    """Result of fitting.

    Attributes:
        result: of the baseline, or of a part of it.
        started_ms: milliseconds since the epoch.
        cross_fitted: see :func:`selmix.baselines.cross_fitted`.
    """

    result: BaselineResult
    started_ms: int
    cross_fitted: CrossFitted | None = None


def fit_baseline(shared: Shared, job: BaselineJob, gpu: float) -> Fitted:
    """Fit a baseline, or one of its parts.

    Args:
        shared: of the sweep.
        job: the baseline, or a part of it.
        gpu: GPUs of this worker, or its share of one.
    """
    torch.set_num_threads(shared.threads)
    keep_to_share(gpu)
    started_ms = int(time.time() * 1000)
    task, baseline = _task(shared, job), BASELINES[job.name]
    result = baseline(task)
    return Fitted(result, started_ms, cross_fitted(baseline, task, result))


@dataclass(frozen=True)
class BaselineReport:
    """Metrics of a baseline; its files are in the folder of its job.

    Attributes:
        select: metric -> value with its interval; with several models their mean.
        score: mean over its models.
        weights_digest: of all its models.
        labels: see :class:`selmix.baselines.BaselineResult`.
        cost_s: see :class:`selmix.baselines.BaselineResult`.
        reference: see :class:`selmix.baselines.BaselineResult`.
        note: see :class:`selmix.baselines.BaselineResult`.
        rung: see :class:`selmix.baselines.Baseline`.
        correction: see :class:`selmix.baselines.Baseline`.
        seeds: of its models; empty where nothing is random.
        feasible: True if its mean meets the constraints of the search.
        started_ms: milliseconds since the epoch.
        cross_fitted: see :func:`selmix.baselines.cross_fitted`.
    """

    select: dict[str, Estimate]
    score: float
    weights_digest: str
    labels: list[str]
    cost_s: float
    reference: bool
    note: dict[str, float | str]
    rung: Rung
    correction: str | None
    seeds: list[int]
    feasible: bool
    started_ms: int
    cross_fitted: CrossFitted | None = None


def write_baseline(shared: Shared, job: BaselineJob, *fits: Fitted) -> BaselineReport:
    """Evaluate the models of a baseline on select and write each as ``weights-I.safetensors``, ``predictions-I.npz``.

    The predictions of a model that is fitted on select are those out of fold; its weights are of the fit on all of it.

    Args:
        shared: of the sweep.
        job: the baseline.
        fits: of the job's parts, in order.
    """
    torch.set_num_threads(shared.threads)
    # The winner's weights are needed to fit only, and are not fetched again.
    task, result = _task(shared, replace(job, winner_weights=[])), joined([fit.result for fit in fits])
    select, held_out, estimates, scores = task.data.select, result.held_out, [], []
    with written(shared.filesystem, job.folder) as home:
        for index, state in enumerate(result.states):
            predictions = task.predictions(state, select) if held_out is None else held_out.select
            save_weights(home / f"weights-{index}.safetensors", state)
            write_predictions(home / f"predictions-{index}.npz", predictions)
            estimates.append(all_intervals(predictions, task.context))
            scores.append(task.score_predictions(predictions))
    means = {key: mean_over_replicates(key, [each[key] for each in estimates]) for key in estimates[0]}
    values = {key: estimate.value for key, estimate in means.items()}
    return BaselineReport(
        select=means,
        score=sum(scores) / len(scores),
        weights_digest=joint_digest([state_digest(state) for state in result.states]),
        labels=list(result.labels),
        cost_s=result.cost_s,
        reference=result.reference,
        note=result.note,
        rung=BASELINES[job.name].rung,
        correction=BASELINES[job.name].correction,
        seeds=list(job.seeds) if BASELINES[job.name].by_seed else [],
        feasible=task.selection.violation(values) == 0.0,
        # Parts may run side by side, and begin in any order.
        started_ms=min(fit.started_ms for fit in fits),
        # A baseline of several parts, seed by seed, has none.
        cross_fitted=fits[0].cross_fitted,
    )


def make_baseline(shared: Shared, job: BaselineJob, gpu: float) -> BaselineReport:
    """Fit a baseline with all its parts, and write it; arguments as of :func:`fit_baseline`."""
    return write_baseline(shared, job, *(fit_baseline(shared, part, gpu) for part in job.parts()))


def _task(shared: Shared, job: BaselineJob) -> BaselineTask:
    # Fetched copies are deleted when the block ends; by then the weights are in memory.
    with contextlib.ExitStack() as stack:
        local_paths = [stack.enter_context(fetched(shared.filesystem, path)) for path in job.winner_weights]
        return BaselineTask(
            shared.on_device(), shared.base_with_features(job.objective), job.objective,
            shared.rules[job.objective], tuple(job.seeds),
            FinetuneConfig(**job.config), tuple(load_weights(path) for path in local_paths),
        )  # fmt: skip


def joint_digest(digests: Sequence[str]) -> str:
    """Digest of one model, or one digest over those of several."""
    if len(digests) == 1:
        return digests[0]
    return f"sha256:{hashlib.sha256(' '.join(digests).encode()).hexdigest()}"
