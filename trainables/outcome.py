"""What a finished run leaves behind as plain files: chosen weights, predictions on select, and its figures."""

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
ROUNDS = "rounds.parquet"
FIGURES = "figures.json"


def write_outcome(folder: Path, run: Run) -> None:
    """Write the chosen round of a finished run: weights, predictions on select, and their figures.

    Raises:
        RuntimeError: the run has no evaluated round.
    """
    best = run.best
    if best is None:
        raise RuntimeError("the run has no evaluated round; step it first")
    save_weights(folder / WEIGHTS, best.state)
    write_predictions(folder / PREDICTIONS, best.predictions)
    figures = figures_of(best.predictions, run.metric_context) | {
        "weights_digest": state_digest(best.state), "round": best.round, "steps": best.steps, "score": best.score,
        "feasible": best.feasible, "stop_reason": run.stop_reason, "failed": run.failed,
    }  # fmt: skip
    (folder / FIGURES).write_text(json.dumps(figures))


def figures_of(predictions: Predictions, context: MetricContext) -> dict[str, Any]:
    """Metric -> value with its interval, as plain numbers under ``select``."""
    return {
        "select": {key: asdict(estimate) for key, estimate in all_intervals(predictions, context).items()}
    }


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Labels, predicted classes, confidences and groups as one compressed numpy archive."""
    arrays = {name: tensor.cpu().numpy() for name, tensor in vars(predictions).items() if tensor is not None}
    np.savez_compressed(path, **arrays)
