"""One baseline from its task to plain files and figures: what a worker runs."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from selmix.baselines import BASELINES, BaselineTask
from selmix.comparison import mean_over_replicates
from selmix.config import FinetuneConfig
from selmix.intervals import all_intervals
from selmix.metrics import Predictions
from selmix.weights import load_weights, save_weights, state_digest
from trainables.outcome import write_predictions
from trainables.remote import fetched, written
from trainables.shared import Shared


def run_baseline(
    shared: Shared,
    name: str,
    objective: str,
    config: dict[str, Any],
    winner_weights: Sequence[str],
    seeds: Sequence[int],
    folder: str,
) -> dict[str, Any]:
    """Fit a baseline and write ``weights-I.safetensors`` and ``predictions-I.npz`` for each of its models.

    Args:
        config: the winner's flat settings. winner_weights: files of its replicates, seed by seed.
        folder: where the files go.
    Returns:
        ``select`` (metric -> value, low, high; over replicates their mean), ``score``, ``weights_digest``,
        ``labels``, ``cost_s``, ``reference``, ``note``, ``seeds``, ``feasible``, ``started_ms``.
    """
    torch.set_num_threads(shared.threads)
    started_ms = int(time.time() * 1000)
    rule = shared.rules[objective]
    with contextlib.ExitStack() as stack:
        near = [stack.enter_context(fetched(shared.filesystem, path)) for path in winner_weights]
        task = BaselineTask(
            shared.on_device(), shared.bases[objective], objective, rule, tuple(seeds), FinetuneConfig(**config),
            tuple(load_weights(path) for path in near),
        )  # fmt: skip
    result = BASELINES[name](task)
    estimates, scores = [], []
    with written(shared.filesystem, folder) as home:
        for index, state in enumerate(result.states):
            logits = task.logits(state, shared.data.select)
            predictions = Predictions.from_logits(
                shared.data.select.labels, logits, shared.data.select.groups
            )
            save_weights(home / f"weights-{index}.safetensors", state)
            write_predictions(home / f"predictions-{index}.npz", predictions)
            estimates.append(all_intervals(predictions, task.context))
            scores.append(task.score_logits(logits))
    select = {key: asdict(mean_over_replicates([each[key] for each in estimates])) for key in estimates[0]}
    values = {key: figures["value"] for key, figures in select.items()}
    return {
        "select": select, "score": sum(scores) / len(scores), "feasible": rule.violation(values) == 0.0,
        "weights_digest": joint_digest([state_digest(state) for state in result.states]),
        "labels": list(result.labels), "cost_s": result.cost_s, "reference": result.reference,
        "note": result.note, "seeds": list(seeds) if len(result.states) > 1 else [], "started_ms": started_ms,
    }  # fmt: skip


def joint_digest(digests: Sequence[str]) -> str:
    """The digest of one model, or one over those of several."""
    if len(digests) == 1:
        return digests[0]
    return f"sha256:{hashlib.sha256(' '.join(digests).encode()).hexdigest()}"
