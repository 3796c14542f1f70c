"""A sweep that is given up for good: what was left of it is KILLED on record, in its studies and in MLflow."""

from __future__ import annotations

from collections import defaultdict

from orchestrator.clock import now_ms, utc_now
from orchestrator.errors import PreflightError
from orchestrator.records.folder import RunFolder
from orchestrator.records.lease import acquire
from orchestrator.records.types import SweepState
from orchestrator.run.preflight import tracking_of
from orchestrator.run.recorder import TrialBook
from orchestrator.tracking.address import check_tracking, masked

PROBLEM = "cancelled for good by selmix stop --cancel"


def cancel(folder: RunFolder, state: SweepState, book: TrialBook) -> None:
    """Kill every run that is unfinished; the caller ends the sweep's MLflow run and saves the state."""
    from orchestrator.search.study import fail_unfinished

    state.state, state.problem = "stopped", PROBLEM
    state.cancelled, state.ended = True, utc_now()
    killed: dict[str, list[int]] = defaultdict(list)
    for record in folder.load_trials():
        if record.state in {"RUNNING", "INTERRUPTED"}:
            book.kill(record)
            if record.kind == "trial":
                killed[record.study].append(record.number)
    if folder.journal_path.is_file():
        fail_unfinished(folder.journal_path, killed)


def cancel_stopped(folder: RunFolder) -> None:
    """Cancel a sweep that nobody drives, under its lease.

    Raises:
        PreflightError: MLflow is not where the sweep's runs are, or somebody drives it after all.
    """
    from orchestrator.progress import Progress
    from orchestrator.tracking.tracker import Tracker

    state = folder.load_state()
    address = tracking_of(folder.store or folder.runs)
    if masked(address) != state.tracking_uri:
        raise PreflightError(
            f"{folder.shown}: must be cancelled with the MLflow store it began with, {state.tracking_uri}, got "
            f"{masked(address)}; set MLFLOW_TRACKING_URI to it"
        )
    check_tracking(address)
    progress = Progress(quiet=True)
    with acquire(folder):
        folder.refresh()
        state = folder.load_state()
        tracker = Tracker(
            address, folder.name, state.sweep_id, folder.runs / "mlartifacts" / folder.name, progress.warn
        )
        tracker.open_sweep(folder.name, {}, {})
        cancel(folder, state, TrialBook(folder, tracker, progress, {}, {}))
        tracker.finish_sweep("KILLED", now_ms(), {}, {"selmix.state": "stopped"}, [])
        state.unsent = tracker.close()
        folder.save_state(state)
        if folder.store is not None:
            folder.store.flush()
