"""One baseline from its task to plain files and figures: what a worker runs."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from selmix.baselines import BASELINES, BaselineResult, BaselineTask, joined
from selmix.config import FinetuneConfig
from selmix.metrics import Predictions
from selmix.statistics.comparison import mean_over_replicates
from selmix.statistics.intervals import all_intervals
from selmix.weights import load_weights, save_weights, state_digest
from trainables.outcome import write_predictions
from trainables.remote import fetched, written
from trainables.shared import Shared, keep_to_share


@dataclass(frozen=True)
class BaselineJob:
    """One baseline of one objective: what a worker is told of it.

    Attributes:
        config: the winner's flat settings. winner_weights: files of its replicates, seed by seed.
        folder: where the files go.
    """

    name: str
    objective: str
    config: dict[str, Any]
    winner_weights: list[str]
    seeds: list[int]
    folder: str

    def parts(self) -> list[BaselineJob]:
        """One for each seed, which may be fitted side by side, where the baseline runs once on each."""
        if not BASELINES[self.name].by_seed:
            return [self]
        return [
            replace(self, winner_weights=[weights], seeds=[seed])
            for weights, seed in zip(self.winner_weights, self.seeds, strict=True)
        ]


@dataclass(frozen=True)
class Fitted:
    """What fitting gave, and when it began (milliseconds since the epoch)."""

    result: BaselineResult
    started_ms: int


def fit_baseline(shared: Shared, job: BaselineJob, gpu: float) -> Fitted:
    """Fit a baseline, or one of its parts; ``gpu`` is what this worker was given."""
    torch.set_num_threads(shared.threads)
    keep_to_share(gpu)
    started_ms = int(time.time() * 1000)
    return Fitted(BASELINES[job.name](_task(shared, job)), started_ms)


def write_baseline(shared: Shared, job: BaselineJob, *fits: Fitted) -> dict[str, Any]:
    """Judge the models of a baseline on select and write each as ``weights-I.safetensors``, ``predictions-I.npz``.

    Args:
        fits: of the job's parts, in order.
    Returns:
        ``select`` (metric -> value, low, high; over replicates their mean), ``score``, ``weights_digest``,
        ``labels``, ``cost_s``, ``reference``, ``note``, ``seeds``, ``feasible``, ``started_ms``.
    """
    torch.set_num_threads(shared.threads)
    task, result = _task(shared, replace(job, winner_weights=[])), joined([fit.result for fit in fits])
    select, estimates, scores = task.data.select, [], []
    with written(shared.filesystem, job.folder) as home:
        for index, state in enumerate(result.states):
            logits = task.logits(state, select)
            predictions = Predictions.from_logits(select.labels, logits, select.groups)
            save_weights(home / f"weights-{index}.safetensors", state)
            write_predictions(home / f"predictions-{index}.npz", predictions)
            estimates.append(all_intervals(predictions, task.context))
            scores.append(task.score_logits(logits))
    means = {key: asdict(mean_over_replicates([each[key] for each in estimates])) for key in estimates[0]}
    values = {key: figures["value"] for key, figures in means.items()}
    return {
        "select": means, "score": sum(scores) / len(scores),
        "feasible": task.selection.violation(values) == 0.0,
        "weights_digest": joint_digest([state_digest(state) for state in result.states]),
        "labels": list(result.labels), "cost_s": result.cost_s, "reference": result.reference,
        "note": result.note, "seeds": list(job.seeds) if len(result.states) > 1 else [],
        "started_ms": min(fit.started_ms for fit in fits),
    }  # fmt: skip


def _task(shared: Shared, job: BaselineJob) -> BaselineTask:
    with contextlib.ExitStack() as stack:
        near = [stack.enter_context(fetched(shared.filesystem, path)) for path in job.winner_weights]
        return BaselineTask(
            shared.on_device(), shared.bases[job.objective], job.objective, shared.rules[job.objective],
            tuple(job.seeds), FinetuneConfig(**job.config), tuple(load_weights(path) for path in near),
        )  # fmt: skip


def joint_digest(digests: Sequence[str]) -> str:
    """The digest of one model, or one over those of several."""
    if len(digests) == 1:
        return digests[0]
    return f"sha256:{hashlib.sha256(' '.join(digests).encode()).hexdigest()}"
