"""What the readers print as JSON: plain documents from records alone, without Ray, MLflow or torch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from orchestrator.files import read_json
from orchestrator.records.folder import RunFolder, list_sweeps
from orchestrator.records.lease import current_state
from orchestrator.records.object_store import Runs
from orchestrator.records.types import SweepState, TrialRecord

SCHEMA_VERSION = 1
ENDED = ("FINISHED", "PRUNED", "FAILED", "KILLED")


def show_document(folder: RunFolder) -> dict[str, Any]:
    """The result of a sweep, or how far it is.

    Raises:
        PreflightError: a damaged record.
    """
    state = folder.load_state()
    records = folder.load_trials()
    now = current_state(folder, state.state)
    spec = folder.load_spec()
    results = read_json(folder.results_path)["objectives"] if folder.results_path.is_file() else {}
    return {
        "schema_version": SCHEMA_VERSION,
        "sweep": folder.name,
        "sweep_id": state.sweep_id,
        "state": now,
        "problem": state.problem,
        "cluster": state.cluster,
        "created": state.created,
        "ended": state.ended,
        "spec": spec,
        "data": state.data,
        "base": state.base,
        "tracking_uri": state.tracking_uri,
        "progress": progress(state, records, now),
        "test_openings": state.test_openings,
        "objectives": {name: results.get(name) or _open(folder, name) for name in spec.get("objectives", [])},
        "trials": [trial_row(record, now) for record in records],
    }


def _open(folder: RunFolder, objective: str) -> dict[str, Any]:
    """An objective that is not decided yet."""
    return {
        "metric": None, "winner": None, "tied": [], "leader": None, "feasible": None, "finalists": [],
        "search_added": None, "verdict": None, "front": [], "compare": None,
        "baselines": {b.name: baseline_row(b) for b in folder.load_baselines(objective)},
    }  # fmt: skip


def baseline_row(record: TrialRecord) -> dict[str, Any]:
    """A baseline as the readers show it."""
    return {
        "select": record.select, "labels": record.labels, "cost_s": record.cost_s, "reference": record.reference,
        "score": record.score, "state": record.state, "error": record.error, "seeds": record.seeds,
        "note": record.note, "mlflow_run_id": record.mlflow_run_id,
    }  # fmt: skip


def trial_row(record: TrialRecord, sweep_state: str) -> dict[str, Any]:
    """A trial or replicate as the readers show it; what a killed driver left RUNNING is INTERRUPTED."""
    state = record.state
    if state == "RUNNING" and sweep_state != "running":
        state = "INTERRUPTED"
    return {
        "trial_id": record.trial_id, "objective": record.objective, "arm": record.arm, "kind": record.kind,
        "state": state,
        "seed": record.seed, "replicate_of": record.replicate_of, "round": record.round, "steps": record.steps,
        "score": record.score, "feasible": record.feasible, "config": record.config,
        "config_hash": record.config_hash, "select": record.select, "cost_s": record.cost_s,
        "mlflow_run_id": record.mlflow_run_id, "weights_digest": record.weights_digest,
        "stop_reason": record.stop_reason, "error": record.error,
        "losses": record.losses, "lost_s": record.lost_s, "alone": record.alone,
    }  # fmt: skip


def progress(state: SweepState, records: list[TrialRecord], now: str) -> dict[str, Any]:
    """Runs by state, and seconds that the rest may take (None while nothing tells, 0 when all is done)."""
    ended = [r for r in records if r.state in ENDED]
    total = max(state.planned_runs, len(records))
    left = total - len(ended)
    eta: float | None = None
    if left == 0 and total > 0:
        eta = 0.0
    elif now == "running" and ended:
        first = min(r.started_ms for r in ended if r.started_ms is not None)
        eta = (time.time() - first / 1000.0) / len(ended) * left
    return {
        "finished": sum(r.state in ("FINISHED", "PRUNED") for r in records),
        "failed": sum(r.state == "FAILED" for r in records),
        "running": sum(r.state == "RUNNING" for r in records) if now == "running" else 0,
        "total": total,
        "eta_s": eta,
    }


def ls_document(runs: Runs) -> dict[str, Any]:
    """The sweeps of a runs folder."""
    return {
        "schema_version": SCHEMA_VERSION,
        "runs": str(runs) if isinstance(runs, Path) else runs.shown,
        "sweeps": [_line(f) for f in list_sweeps(runs)],
    }


def _line(folder: RunFolder) -> dict[str, Any]:
    state = folder.load_state()
    now = current_state(folder, state.state)
    results = read_json(folder.results_path)["objectives"] if folder.results_path.is_file() else {}
    return {
        "sweep": folder.name,
        "sweep_id": state.sweep_id,
        "state": now,
        "created": state.created,
        "progress": progress(state, folder.load_trials(), now),
        "objectives": {
            name: {
                "metric": result["metric"],
                "winner": result["winner"] and result["winner"]["trial_id"],
                "value": result["winner"]
                and result["winner"]["replicates"]["select"][result["metric"]]["value"],
                "verdict": result["verdict"] and {k: result["verdict"][k] for k in ("outcome", "against")},
            }
            for name, result in results.items()
        },
    }
