"""Outcome of a finished run as plain files: chosen weights, predictions on select, and metrics."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from selmix.metrics import MetricContext, Predictions
from selmix.run.run import Run
from selmix.statistics.intervals import all_intervals
from selmix.weights import save_weights, state_digest

WEIGHTS = "weights.safetensors"
PREDICTIONS = "predictions.npz"
# The driver reads this file by its name, from a checkpoint of any age.
OUTCOME = "figures.json"


def write_outcome(folder: Path, run: Run) -> None:
    """Write the chosen round of a finished run: weights, predictions on select, and their metrics.

    Raises:
        RuntimeError: the run has no evaluated round.
    """
    best = run.best
    if best is None:
        raise RuntimeError("the run has no evaluated round; step it first")
    save_weights(folder / WEIGHTS, best.state)
    write_predictions(folder / PREDICTIONS, best.predictions)
    outcome = select_metrics(best.predictions, run.metric_context) | {
        "weights_digest": state_digest(best.state), "round": best.round, "steps": best.steps, "score": best.score,
        "feasible": best.feasible, "stop_reason": run.stop_reason, "failed": run.failed,
    }  # fmt: skip
    (folder / OUTCOME).write_text(json.dumps(outcome))


def select_metrics(predictions: Predictions, context: MetricContext) -> dict[str, Any]:
    """Metrics with their intervals, as plain numbers under ``select``."""
    return {
        "select": {key: asdict(estimate) for key, estimate in all_intervals(predictions, context).items()}
    }


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write labels, predicted classes, confidences and groups as one compressed numpy archive."""
    # Data without groups have no such array.
    arrays = {name: tensor.cpu().numpy() for name, tensor in vars(predictions).items() if tensor is not None}
    np.savez_compressed(path, **arrays)
