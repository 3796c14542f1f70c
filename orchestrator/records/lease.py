"""Who drives a sweep: ``lease.json``, so that two launches never run one sweep at the same time.

The lease names host, process and the process's start (a process id alone is used again). On the holder's own
host it is dead the moment that process is gone; another host cannot see processes and waits for
``STALE_AFTER_S`` without a heartbeat, judged by its own clock, so hosts' clocks must agree to some seconds.
In an object store it is taken as :mod:`orchestrator.records.lease_in_store` says.
Taking and renewing happen under an advisory lock on ``lease.lock``, which the kernel drops with its process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from orchestrator.errors import PreflightError
from orchestrator.files import known_fields, read_json, write_json, writing
from orchestrator.records import lease_in_store as lease_store
from orchestrator.records.folder import RunFolder

STALE_AFTER_S = 60.0
HEARTBEAT_EVERY_S = 10.0


@dataclass(frozen=True)
class Holder:
    """The content of ``lease.json``; ``heartbeat`` in seconds since the epoch, ``token`` one per acquisition."""

    host: str
    pid: int
    process_start: str
    heartbeat: float
    token: str

    def alive(self, now: float | None = None) -> bool:
        """Whether the holder still drives the sweep, as far as this host can tell."""
        if self.host == socket.gethostname():
            return process_start(self.pid) == self.process_start
        return (time.time() if now is None else now) - self.heartbeat < STALE_AFTER_S


class Lease:
    """A lease that is held: renewed by a thread until :meth:`release`, or until somebody else took it."""

    def __init__(self, folder: RunFolder, holder: Holder, every_s: float) -> None:
        self.folder = folder
        self.holder = holder
        self._every_s = every_s
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="selmix-lease", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Another host took the lease over (this process slept for longer than a minute): stop driving."""
        return self._lost.is_set()

    def release(self) -> None:
        """Give the lease back; a second call does nothing, and a lease that was lost is left alone."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        if self.folder.store is not None:
            with contextlib.suppress(PreflightError):
                lease_store.withdraw(self.folder.store, self.folder.name, self.holder.token)
            return
        with (
            contextlib.suppress(PreflightError),
            _locked(self.folder),
        ):  # a folder that is gone holds no lease
            if _is(read_holder(self.folder), self.holder.token):
                self.folder.lease_path.unlink(missing_ok=True)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _renew(self) -> None:
        while not self._stop.wait(self._every_s):
            # A full disk or a hiccup of shared storage must not end the sweep: the next beat tries again.
            if self.folder.store is not None:
                with contextlib.suppress(PreflightError):
                    if not lease_store.holds(self.folder.store, self.folder.name, self.holder.token):
                        self._lost.set()
                        return
                    lease_store.beat(self.folder.store, self.folder.name, _document(self.holder))
                continue
            with contextlib.suppress(PreflightError), _locked(self.folder):
                if not _is(read_holder(self.folder), self.holder.token):
                    self._lost.set()
                    return
                _write(self.folder, self.holder)


def acquire(folder: RunFolder, heartbeat_every_s: float = HEARTBEAT_EVERY_S) -> Lease:
    """Take the lease of a sweep, also from a holder that is dead.

    Args:
        folder: of the sweep; made if it is not there.
        heartbeat_every_s: well below ``STALE_AFTER_S``.
    Returns:
        The lease; use it as a context manager or call :meth:`Lease.release`.
    Raises:
        PreflightError: another driver is alive (the message says who), or the folder cannot be written.
    """
    with writing(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
    pid = os.getpid()
    mine = Holder(socket.gethostname(), pid, process_start(pid) or "", time.time(), secrets.token_hex(8))
    if folder.store is not None:
        held = lease_store.claim(folder.store, folder.name, _document(mine), _document_alive)
        if held is not None:
            raise _held(folder, Holder(**known_fields(Holder, held)))
        return Lease(folder, mine, heartbeat_every_s)
    with _locked(folder):
        other = read_holder(folder)
        if other is not None and other.alive():
            raise _held(folder, other)
        _write(folder, mine)
    return Lease(folder, mine, heartbeat_every_s)


def check_free(folder: RunFolder) -> None:
    """Nobody drives this sweep now; takes nothing and writes nothing.

    Raises:
        PreflightError: another driver is alive; the message says who.
    """
    holder = live_holder(folder)
    if holder is not None:
        raise _held(folder, holder)


def _held(folder: RunFolder, holder: Holder) -> PreflightError:
    age_s = max(0.0, time.time() - holder.heartbeat)
    return PreflightError(
        f"{folder.shown}: must have one driver at a time, held by process {holder.pid} on {holder.host} "
        f"(heartbeat {age_s:.0f} s ago); wait for it, or end it with: kill -INT {holder.pid}"
    )


def live_holder(folder: RunFolder) -> Holder | None:
    """The driver that runs this sweep now, or None."""
    holder = read_holder(folder)
    return holder if holder is not None and holder.alive() else None


def read_holder(folder: RunFolder) -> Holder | None:
    """The last holder, dead or alive; None without a lease or where it is damaged (then nobody renews it)."""
    if folder.store is not None:
        found = lease_store.holder(folder.store, folder.name, _document_alive)
        return None if found is None else Holder(**known_fields(Holder, found))
    try:
        return Holder(**known_fields(Holder, read_json(folder.lease_path)))
    except (PreflightError, TypeError):
        return None


def current_state(folder: RunFolder, written: str) -> str:
    """``running``, ``stopped``, ``finished`` or ``failed``, as it is now.

    Args:
        folder: of the sweep.
        written: the state in ``sweep.json``, which a driver killed by ``kill -9`` could not correct.
    """
    if live_holder(folder) is not None:
        return "running"
    return "stopped" if written == "running" else written


def process_start(pid: int) -> str | None:
    """When the process started, in the system's own words; None if there is no such process (or a zombie)."""
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
    state, ticks_since_boot = values[0], values[19]
    if state in "ZX":  # killed, and its parent has not asked for the exit code yet
        return None
    return f"{_boot()}:{ticks_since_boot}"


def _boot() -> str:
    """Ticks count from the boot, so after a restart of the machine the same number is another process."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def _is(holder: Holder | None, token: str) -> bool:
    return holder is not None and holder.token == token


def _write(folder: RunFolder, holder: Holder) -> None:
    write_json(folder.lease_path, _document(holder))


def _document(holder: Holder) -> dict[str, Any]:
    return asdict(holder) | {"heartbeat": time.time()}


def _document_alive(document: dict[str, Any]) -> bool:
    try:
        return Holder(**known_fields(Holder, document)).alive()
    except TypeError:
        return False


@contextlib.contextmanager
def _locked(folder: RunFolder) -> Iterator[None]:
    """Hold the advisory lock: reading the lease and writing it are one step for every driver."""
    path = folder.path / "lease.lock"
    with writing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with writing(path):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
