"""A request to stop in a sweep's folder, beside its lease: the driver's watch sees it wherever the driver runs."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from orchestrator.clock import utc_now
from orchestrator.errors import PreflightError
from orchestrator.records.folder import RunFolder
from orchestrator.records.leases.on_disk import Holder


@dataclass(frozen=True)
class StopRequest:
    """A request to the holder of one lease, and to no later one.

    Attributes:
        token: of that lease.
        cancel: True if the sweep is never to resume.
        time: of the request.
        by: user and host that it came from.
    """

    token: str
    cancel: bool
    time: str
    by: str


def request_stop(folder: RunFolder, holder: Holder, cancel: bool) -> None:
    """Ask the driver that holds a lease to drain.

    Args:
        folder: of the sweep.
        holder: of the lease.
        cancel: True if the sweep is never to resume.
    """
    # Containers often have no USER.
    by = f"{os.environ.get('USER', 'somebody')} on {socket.gethostname()}"
    folder.save(folder.stop_path, StopRequest(holder.token, cancel, utc_now(), by))


def stop_request(folder: RunFolder, token: str) -> StopRequest | None:
    """The request to the holder of a lease; None where there is none, or where storage fails for the moment."""
    # The watch looks again, so one look that fails must not end the sweep.
    try:
        folder.store.current(folder.stop_path, anew=True)
        request = folder.load(folder.stop_path, StopRequest)
    except PreflightError:
        return None
    return request if request is not None and request.token == token else None
