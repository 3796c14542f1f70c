"""``selmix stop``: a request in the run folder, beside the lease, that the driver's watch sees wherever it runs."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

from orchestrator.clock import utc_now
from orchestrator.errors import PreflightError
from orchestrator.files import read_json, write_json
from orchestrator.progress import Progress
from orchestrator.records.folder import RunFolder
from orchestrator.records.lease import Holder, current_state, live_holder

POLL_S, STORE_POLL_S = 0.5, 2.0


def request_stop(folder: RunFolder, holder: Holder, cancel: bool) -> None:
    """Ask the driver that holds this lease, and no later one."""
    by = f"{os.environ.get('USER', 'somebody')} on {socket.gethostname()}"
    write_json(folder.stop_path, {"token": holder.token, "cancel": cancel, "time": utc_now(), "by": by})
    folder.publish(folder.stop_path)


def requested(folder: RunFolder, token: str) -> dict[str, object] | None:
    """The request to the holder of a lease; None where there is none, or storage hiccups: it is asked again."""
    try:
        path = folder.stored(folder.stop_path, anew=True)
        request = read_json(path) if path.is_file() else {}
    except PreflightError:
        return None
    return request if request.get("token") == token else None


def stop_sweep(
    folder: RunFolder, timeout_s: float, cancel: bool, progress: Progress,
    wait: Callable[[float], None] = time.sleep,
) -> int:  # fmt: skip
    """Drain a sweep, and return when it has stopped; ``cancel``: it never goes on.

    Raises:
        PreflightError: it still runs after ``timeout_s``.
    """
    holder = live_holder(folder)
    if holder is None:
        state = current_state(folder, folder.load_state().state)
        if not cancel or state in {"finished", "failed"}:
            progress.say(f"{folder.name} is not running: {state}")
            return 0
        from orchestrator.run.cancellation import cancel_stopped

        cancel_stopped(folder)
        progress.say(f"{folder.name} is cancelled for good")
        return 0
    request_stop(folder, holder, cancel)
    progress.say(f"{folder.name}: asked process {holder.pid} on {holder.host} to stop")
    end = time.monotonic() + timeout_s
    while (now := live_holder(folder)) is not None and now.token == holder.token:
        if time.monotonic() > end:
            raise PreflightError(
                f"{folder.shown}: must stop within {timeout_s:g} s, process {holder.pid} on {holder.host} still runs; "
                "the request stands, ask again to wait longer"
            )
        wait(POLL_S if folder.store is None else STORE_POLL_S)
    folder.discard(folder.stop_path)
    folder.refresh()
    progress.say(f"{folder.name} is {current_state(folder, folder.load_state().state)}")
    return 0
