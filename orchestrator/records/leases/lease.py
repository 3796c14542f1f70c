"""The lease of a sweep, held by its one driver: two launches never run one sweep at the same time."""

from __future__ import annotations

import contextlib
import threading
import time
from types import TracebackType

from orchestrator.errors import PreflightError
from orchestrator.files import writing
from orchestrator.records.folder import RunFolder
from orchestrator.records.leases.on_disk import Holder, this_process

# Six of them within the minute after which a holder counts as dead: single ones may fail.
HEARTBEAT_EVERY_S = 10.0


class Lease:
    """A lease that is held: a thread renews it until :meth:`release`, or until another host takes it over.

    Args:
        folder: of the sweep.
        holder: this process.
        every_s: seconds between two heartbeats.
    """

    def __init__(self, folder: RunFolder, holder: Holder, every_s: float) -> None:
        self.folder = folder
        self.holder = holder
        self._every_s = every_s
        self._stop = threading.Event()
        self._lost = threading.Event()
        # A daemon: a process that crashes must not be kept alive by its own heartbeat.
        self._thread = threading.Thread(target=self._renew, name="selmix-lease", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """True if another host took the lease over (this process slept for longer than a minute): stop driving."""
        return self._lost.is_set()

    def release(self) -> None:
        """Give the lease back; a second call does nothing, and a lease that was lost is left alone."""
        if self._stop.is_set():
            return
        self._stop.set()
        # A beat under way would take the withdrawn lease for lost, or leave a heartbeat behind.
        self._thread.join()
        self.folder.lease.withdraw(self.holder)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _renew(self) -> None:
        while not self._stop.wait(self._every_s):
            # A full disk or a hiccup of shared storage must not end the sweep: the next beat tries again.
            with contextlib.suppress(PreflightError):
                if not self.folder.lease.renew(self.holder):
                    self._lost.set()
                    return


def acquire(folder: RunFolder, heartbeat_every_s: float = HEARTBEAT_EVERY_S) -> Lease:
    """Take the lease of a sweep, also from a holder that is dead.

    Args:
        folder: of the sweep; made if it is not there.
        heartbeat_every_s: well below a minute.
    Returns:
        The lease; use it as a context manager or call :meth:`Lease.release`.
    Raises:
        PreflightError: another driver is alive (the message names it), or the folder cannot be written.
    """
    with writing(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
    mine = this_process()
    other = folder.lease.claim(mine)
    if other is not None:
        raise _refused(folder, other)
    return Lease(folder, mine, heartbeat_every_s)


def check_free(folder: RunFolder) -> None:
    """Check that nobody drives this sweep now; takes nothing and writes nothing.

    Raises:
        PreflightError: another driver is alive; the message names it.
    """
    holder = live_holder(folder)
    if holder is not None:
        raise _refused(folder, holder)


def _refused(folder: RunFolder, holder: Holder) -> PreflightError:
    # Clocks of hosts differ by some seconds, so a heartbeat may lie in the future.
    age_s = max(0.0, time.time() - holder.heartbeat)
    return PreflightError(
        f"{folder.shown}: must have one driver at a time, held by process {holder.pid} on {holder.host} "
        f"(heartbeat {age_s:.0f} s ago); wait for it, or end it with: kill -INT {holder.pid}"
    )


def live_holder(folder: RunFolder) -> Holder | None:
    """The driver that runs this sweep now; None where there is none."""
    return folder.lease.holder()


def current_state(folder: RunFolder, written: str) -> str:
    """``running``, ``stopped``, ``finished`` or ``failed``, as it is now.

    Args:
        folder: of the sweep.
        written: the state in ``sweep.json``, which a driver killed by ``kill -9`` could not correct.
    """
    if live_holder(folder) is not None:
        return "running"
    return "stopped" if written == "running" else written
