"""What the smoke sweep left in its folder and its store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.tracking.client import open_client

DECIDED = ("trial_id", "state", "seed", "round", "steps", "score", "select", "weights_digest", "stop_reason")
"""Keys of a trial in `show --json` that neither clocks nor random identities decide."""


def records(runs: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in (runs / "smoke" / "trials").rglob("record.json"):
        try:
            record = json.loads(path.read_text())
        except ValueError:
            continue
        found[record["trial_id"]] = record
    return found


def finished(runs: Path) -> list[str]:
    return [name for name, record in records(runs).items() if record["state"] == "FINISHED"]


def mlflow_runs(runs: Path) -> list[Any]:
    client = open_client(f"sqlite:///{runs}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "smoke"]
    return list(client.search_runs([experiment.experiment_id]))
