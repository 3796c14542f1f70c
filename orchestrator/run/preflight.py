"""Everything that can be known to fail before anything is written, started or trained."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import PreflightError, UsageError
from orchestrator.records.folder import RunFolder
from orchestrator.records.object_store import Runs
from orchestrator.tracking.address import check_tracking, masked, tracking_address

if TYPE_CHECKING:
    from orchestrator.spec.schema import SweepSpec
    from selmix.data.splits import SweepData


def check_all(spec: SweepSpec, runs: Runs) -> tuple[str, SweepData]:
    """Storage, MLflow, resources, data and checkpoint, in order of how quickly each is known.

    Returns:
        The tracking address and the data.
    Raises:
        PreflightError: the first that is not there.
    """
    address = tracking_of(runs)
    if isinstance(runs, Path):
        check_writable(runs / spec.name)
    else:
        runs.check(spec.name)
    check_tracking(address)
    from orchestrator.build.base_model import check_checkpoint, load_data
    from orchestrator.cluster.ray_session import check_local_resources

    check_local_resources(spec.resources)
    data = load_data(spec)
    check_checkpoint(spec, data)
    return address, data


def tracking_of(runs: Runs) -> str:
    """The address of MLflow for a runs folder.

    Raises:
        PreflightError: the runs lie in an object store, where no file of our own can be, and none is named.
    """
    if isinstance(runs, Path):
        return tracking_address(runs, os.environ)
    if not os.environ.get("MLFLOW_TRACKING_URI", "").strip():
        raise PreflightError(
            f"MLFLOW_TRACKING_URI: must be set where --runs is an object store ({runs.shown}), got nothing; name the "
            "MLflow server that every driver of this sweep reaches"
        )
    return tracking_address(runs.working, os.environ)


def check_writable(path: Path) -> None:
    """``path`` could be made and written; nothing is left behind.

    Raises:
        PreflightError: it could not.
    """
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise PreflightError(
            f"{path}: must be writable: {error.strerror or error}; choose another --runs folder"
        ) from error


def check_unchanged(folder: RunFolder, spec: SweepSpec, address: str) -> None:
    """A sweep goes on with the file and the store that it began with.

    Raises:
        UsageError: the file says something else now; the message names the keys.
        PreflightError: the tracking address is another one.
    """
    changed = changed_keys(folder.load_spec(), spec.resolved())
    if changed:
        raise UsageError(
            f"{folder.shown}: this sweep was launched with another file; changed: {', '.join(changed)}. "
            f"Launch it under a new name (name=NEW), undo the change, or remove {folder.shown}"
        )
    before = folder.load_state().tracking_uri
    if before and before != masked(address):
        raise PreflightError(
            f"{folder.shown}: must go on with the MLflow store it began with, {before}, got {masked(address)}; "
            "set MLFLOW_TRACKING_URI back, or launch with name=NEW"
        )


def changed_keys(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys that differ, each with both values."""
    changed = []
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changed += changed_keys(old, new, f"{prefix}{key}.")
        elif old != new:
            changed.append(f"{prefix}{key} ({_brief(old)} -> {_brief(new)})")
    return changed


def _brief(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
