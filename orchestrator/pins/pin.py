"""``selmix pin``: a winner becomes a lock file, a weights file and a registered model. Opens the test split."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from orchestrator.clock import utc_now
from orchestrator.errors import NoFeasibleTrial, PreflightError, UsageError
from orchestrator.pins.lock_file import pin_path, sealed, weights_beside, write_pin
from orchestrator.records.folder import RunFolder
from orchestrator.records.object_store import Runs
from orchestrator.records.types import TrialRecord
from orchestrator.run.preflight import check_writable, tracking_of
from orchestrator.tracking.address import check_tracking, masked
from orchestrator.verbs.show import show_document

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
ALIAS_TAKEN = re.compile(r"v\d+|latest", re.IGNORECASE)


def pin_sweep(
    runs: Runs, sweep: str, pins: Path, name: str, objective: str | None, trial_id: str | None, force: bool
) -> Path:
    """Write the pin of a sweep's winner; trains nothing.

    Args:
        objective: whose winner, where the sweep has several. trial_id: pin this trial instead of the winner.
        force: replace a pin of that name.
    Returns:
        The pin's path.
    Raises:
        UsageError: a name that is taken or not allowed, no objective where there are several, no finished sweep.
        NotFound: no such sweep or trial. NoFeasibleTrial: the objective has no winner.
        PreflightError: MLflow, the pins folder or the sweep's files are not there.
    """
    folder = RunFolder.open(runs, sweep)
    path = _free_path(pins, name, force)
    document = show_document(folder)
    objective, chosen = _chosen(folder, document, objective, trial_id)
    check_writable(path)
    address = tracking_of(runs)
    check_tracking(address)
    from orchestrator.pins.test_split import Evaluation  # torch is imported from here on

    evaluation = Evaluation(folder, objective, by=f"pin {name}")
    result = document["objectives"][objective]
    pinned = evaluation.document(name, chosen, result)
    with tempfile.TemporaryDirectory(prefix="selmix-pin-") as scratch:
        pinned["mlflow"] = _register(address, sweep, name, chosen, pinned, folder, Path(scratch))
    pinned["created"] = utc_now()
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = weights_beside(path).with_suffix(".part")
    shutil.copyfile(folder.stored(folder.weights_path(chosen.trial_id)), aside)
    aside.replace(weights_beside(path))
    write_pin(path, sealed(pinned))
    return path


def _free_path(pins: Path, name: str, force: bool) -> Path:
    if not NAME.fullmatch(name):
        raise UsageError(
            f"--name: must be letters, digits, '.', '_' or '-', the first a letter or digit, got {name!r}"
        )
    if ALIAS_TAKEN.fullmatch(name):
        raise UsageError(f"--name: {name} is a name that MLflow keeps for its own aliases; choose another")
    path = pin_path(pins, name)
    if path.exists() and not force:
        raise UsageError(f"{path}: exists; choose another --name, or --force to replace it")
    return path


def _chosen(
    folder: RunFolder, document: dict[str, Any], objective: str | None, trial_id: str | None
) -> tuple[str, TrialRecord]:
    objectives = list(document["objectives"])
    if trial_id is not None:
        record = folder.load_trial(trial_id)
        if record.state != "FINISHED" or record.kind == "baseline":
            raise UsageError(
                f"--trial: must be a finished trial or replicate, {trial_id} is a {record.state} {record.kind}"
            )
        if objective not in (None, record.objective):
            raise UsageError(
                f"--trial: {trial_id} is a trial of {record.objective}, --objective says {objective}"
            )
        return record.objective, record
    if objective is None and len(objectives) > 1:
        raise UsageError(f"--objective: must be named, {folder.name} has {', '.join(objectives)}")
    objective = objective or objectives[0]
    if objective not in objectives:
        raise UsageError(f"--objective: {folder.name} has {', '.join(objectives)}, got {objective!r}")
    if document["state"] != "finished":
        raise UsageError(
            f"{folder.name} is {document['state']}: it has no winner yet; launch it again, or name a --trial"
        )
    winner = document["objectives"][objective]["winner"]
    if winner is None:
        raise NoFeasibleTrial(f"{folder.name}: {objective} has no winner: {document['problem']}")
    return objective, folder.load_trial(winner["trial_id"])


def _register(
    address: str,
    sweep: str,
    name: str,
    chosen: TrialRecord,
    pinned: dict[str, Any],
    folder: RunFolder,
    scratch: Path,
) -> dict[str, Any]:
    """The model in MLflow's registry: weights and settings as plain files, under the alias of the pin."""
    from orchestrator.tracking.tracker import register_model

    if chosen.mlflow_run_id is None:
        raise PreflightError(
            f"{chosen.trial_id} has no run at {masked(address)} yet; launch the sweep again to send it"
        )
    weights, settings = scratch / "weights.safetensors", scratch / "settings.json"
    shutil.copyfile(folder.stored(folder.weights_path(chosen.trial_id)), weights)
    told = {
        key: pinned[key]
        for key in ("objective", "trial_id", "seed", "round", "config", "protocol", "digests")
    }
    settings.write_text(json.dumps(told, indent=1))
    alias = name.replace(".", "-")  # MLflow takes no dot in an alias
    tags = {"selmix.weights_digest": pinned["digests"]["weights"], "selmix.pin": name}
    version = register_model(address, chosen.mlflow_run_id, sweep, alias, [weights, settings], tags)
    return {
        "tracking_uri": masked(address), "run_id": chosen.mlflow_run_id, "model": sweep, "version": version,
        "alias": alias,
    }  # fmt: skip
