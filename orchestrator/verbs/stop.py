"""``selmix stop``: stop a sweep wherever it runs, to be resumed later, or cancel it for good."""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator.clock import now_ms
from orchestrator.credentials import masked
from orchestrator.errors import PreflightError
from orchestrator.progress import Progress
from orchestrator.records.folder import RunFolder
from orchestrator.records.leases.lease import acquire, current_state, live_holder
from orchestrator.records.stop_request import request_stop
from orchestrator.tracking.address import check_tracking, present_address, tracking_of


def stop_sweep(
    folder: RunFolder,
    timeout_s: float,
    cancel: bool,
    progress: Progress,
    wait: Callable[[float], None] = time.sleep,
) -> int:
    """Request a sweep to stop, and return when it has stopped.

    Args:
        folder: records of the sweep.
        timeout_s: seconds to wait for it.
        cancel: True if it is never to be resumed.
        progress: messages to the user.
        wait: sleeps for so many seconds between two polls.
    Returns:
        Exit code.
    Raises:
        PreflightError: the sweep still runs after ``timeout_s``.
    """
    holder = live_holder(folder)
    if holder is None:
        state = current_state(folder, folder.load_state().state)
        if not cancel or state in {"finished", "failed"}:
            progress.say(f"{folder.name} is not running: {state}")
            return 0
        cancel_stopped(folder)
        progress.say(f"{folder.name} is cancelled for good")
        return 0
    request_stop(folder, holder, cancel)
    progress.say(f"{folder.name}: requested process {holder.pid} on {holder.host} to stop")
    # By token: a driver that takes the lease after this one is another launch, which the request does not concern.
    end = time.monotonic() + timeout_s
    while (now := live_holder(folder)) is not None and now.token == holder.token:
        if time.monotonic() > end:
            raise PreflightError(
                f"{folder.shown}: must stop within {timeout_s:g} s, process {holder.pid} on {holder.host} still runs; "
                "the request stands, repeat it to wait longer"
            )
        wait(folder.store.poll_s)
    # The driver may have been killed meanwhile, and would have left the request behind.
    folder.store.discard(folder.stop_path)
    folder.refresh()
    progress.say(f"{folder.name} is {current_state(folder, folder.load_state().state)}")
    return 0


def cancel_stopped(folder: RunFolder) -> None:
    """Cancel a sweep that no driver runs, under its lease.

    Raises:
        PreflightError: the tracking address is not that of the sweep's runs, or a driver runs it after all.
    """
    # Imported late: stopping a sweep that runs takes none of them, and is a file to write.
    from orchestrator.run.driver import cancel
    from orchestrator.run.recorder import Recorder
    from orchestrator.tracking.tracker import Tracker

    state = folder.load_state()
    address = tracking_of(folder.store)
    began_with = present_address(state.tracking_uri, folder.store.root)
    if masked(address) != began_with:
        raise PreflightError(
            f"{folder.shown}: must be cancelled with the MLflow store that it began with, {began_with}, got "
            f"{masked(address)}; set MLFLOW_TRACKING_URI to it"
        )
    check_tracking(address)
    progress = Progress(quiet=True)
    with acquire(folder):
        # Under the lease the records are read again: a driver may have changed them before it ended.
        folder.refresh()
        state = folder.load_state()
        artifacts = folder.store.root / "mlartifacts" / folder.name
        tracker = Tracker(address, folder.name, state.sweep_id, artifacts, progress.warn)
        tracker.open_sweep(folder.name, {}, {})
        cancel(folder, state, Recorder(folder, tracker, progress, {}, {}))
        tracker.finish_sweep("KILLED", now_ms(), {}, {"selmix.state": "stopped"}, [])
        state.unsent = tracker.close()
        folder.save_state(state)
        folder.store.flush()
