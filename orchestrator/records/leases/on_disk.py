"""The lease of a sweep on a disk: ``lease.json``, taken and renewed under an advisory lock.

The lease names host, process and the process's start (a process id alone is used again). On the holder's own host it is
dead the moment that process is gone; another host cannot see processes and waits for ``STALE_AFTER_S`` without a
heartbeat, judged by its own clock, so hosts' clocks must agree to some seconds. The kernel drops the lock on
``lease.lock`` with its process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from orchestrator.documents import from_document, to_document
from orchestrator.errors import PreflightError
from orchestrator.files import read_json, write_json, writing

STALE_AFTER_S = 60.0


@dataclass(frozen=True)
class Holder:
    """Content of a lease.

    Attributes:
        host: that the driver runs on.
        pid: of the driver.
        process_start: see :func:`process_start`.
        heartbeat: of the last renewal, in seconds since the epoch.
        token: one per acquisition.
    """

    host: str
    pid: int
    process_start: str
    heartbeat: float
    token: str

    def is_alive(self, now: float | None = None) -> bool:
        """True if the holder still drives the sweep, as far as this host can tell."""
        if self.host == socket.gethostname():
            return process_start(self.pid) == self.process_start
        return (time.time() if now is None else now) - self.heartbeat < STALE_AFTER_S

    def beaten(self) -> Holder:
        """The same holder with a new heartbeat."""
        return replace(self, heartbeat=time.time())


class LeaseBackend(Protocol):
    """Keeps the lease of one sweep."""

    def claim(self, mine: Holder) -> Holder | None:
        """Contend for the lease; None where ``mine`` holds it now, else its holder.

        Raises:
            PreflightError: the runs folder cannot be written.
        """

    def renew(self, mine: Holder) -> bool:
        """Write a new heartbeat; False where another holder took the lease over.

        Raises:
            PreflightError: the runs folder cannot be written just now.
        """

    def withdraw(self, mine: Holder) -> None:
        """Give the lease back; one that was taken over is left alone."""

    def holder(self) -> Holder | None:
        """The holder that is alive, as far as this host can tell; None without one, or where its lease is damaged."""


class DiskLease:
    """:class:`LeaseBackend` in a folder that every contender sees.

    Args:
        folder: of the sweep; must exist before the lease is claimed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / "lease.json"

    def claim(self, mine: Holder) -> Holder | None:
        with self._locked():
            other = self.holder()
            if other is not None and other.token != mine.token:
                return other
            self._write(mine)
        return None

    def renew(self, mine: Holder) -> bool:
        with self._locked():
            if not self._is_held_by(mine):
                return False
            self._write(mine.beaten())
        return True

    def withdraw(self, mine: Holder) -> None:
        # A folder that is gone holds no lease.
        with contextlib.suppress(PreflightError), self._locked():
            if self._is_held_by(mine):
                self.path.unlink(missing_ok=True)

    def holder(self) -> Holder | None:
        last = self._last()
        return last if last is not None and last.is_alive() else None

    def _last(self) -> Holder | None:
        """The last holder, dead or alive."""
        try:
            return from_document(Holder, read_json(self.path))
        except (PreflightError, ValueError):
            return None

    def _is_held_by(self, mine: Holder) -> bool:
        # Dead or alive: one that slept for longer than a minute keeps a lease that nobody took over.
        last = self._last()
        return last is not None and last.token == mine.token

    def _write(self, holder: Holder) -> None:
        write_json(self.path, to_document(holder))

    def _locked(self) -> AbstractContextManager[None]:
        """Hold the advisory lock: reading the lease and writing it are one step for every driver."""
        return file_lock(self._folder / "lease.lock")


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the advisory lock on a file, which is made and stays; others wait.

    Raises:
        PreflightError: the file cannot be made or locked.
    """
    with writing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # Some network file systems have no locks, and refuse here.
        with writing(path):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def this_process() -> Holder:
    """This process as the holder of a new lease."""
    pid = os.getpid()
    return Holder(socket.gethostname(), pid, process_start(pid) or "", time.time(), secrets.token_hex(8))


def process_start(pid: int) -> str | None:
    """Start of a process, in the system's own words; None if there is no such process (or it is a zombie)."""
    # macOS has no /proc.
    if not Path("/proc/self/stat").exists():
        shown = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return shown.stdout.strip() or None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    values = stat.rpartition(")")[2].split()  # the command in parentheses may hold blanks and parentheses
    # Fields 3 and 22 of proc(5).
    state, ticks_since_boot = values[0], values[19]
    if state in "ZX":  # killed, and its parent has not collected the exit code yet
        return None
    return f"{_boot()}:{ticks_since_boot}"


def _boot() -> str:
    """Identity of the boot that ticks count from: after a restart the same number is another process."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""
