"""Processes of this machine that work side by side without Ray: for work of seconds, when Ray takes longer to start."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from orchestrator.cluster.capacity import Machine, fits
from orchestrator.cluster.local_worker import BLOCKED, Raised
from orchestrator.signals import blocked_for_children
from orchestrator.spec.sections import ResourceSection
from trainables.shared import Shared, Work

MOST = 16
"""Processes at most: each takes memory of its own, and the cheap rungs have hardly more pieces of work."""

_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from orchestrator.cluster.local_worker import main
main(*json.loads(sys.argv[2]))
"""

J = TypeVar("J")
T = TypeVar("T")


class ProcessLost(RuntimeError):
    """A process of the pool ended in the midst of its work."""


class WorkerTraceback(Exception):
    """Traceback of an error as a process of the pool had it; the cause of the error here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def local_processes(resources: ResourceSection, cpus: float) -> int:
    """Number of processes that work side by side on this machine; 1 with a GPU, which one process uses best.

    Args:
        resources: of a worker.
        cpus: of this machine.
    """
    one = resources.model_copy(update={"workers": 1})
    return 1 if resources.gpu else max(1, min(MOST, fits(one, [Machine(cpus, 0.0)])))


@dataclass(eq=False)
class _Process:
    """A process as the driver sees it.

    Attributes:
        connection: to it.
        piece: number of its piece of work; None while it has none.
        shared: what it was last sent of what all share.
    """

    connection: Connection
    piece: int | None = None
    shared: Shared | None = None


class LocalPool:
    """Processes that wait for work; they end with the pool, and with this process however it ends.

    They are forked off one that imports torch first, meanwhile this process does other things. They are no children of
    ``multiprocessing`` here, whose state belongs to the user's own processes.

    Args:
        size: number of processes.
    """

    def __init__(self, size: int) -> None:
        self.size, self._pieces = size, 0
        self._packed: tuple[Shared, bytes] | None = None
        self._begin(size)

    def _begin(self, size: int) -> None:
        with contextlib.ExitStack() as undone:
            pairs = [multiprocessing.Pipe() for _ in range(size)]
            alive, self._alive = multiprocessing.Pipe(duplex=False)
            for end in (alive, self._alive, *itertools.chain(*pairs)):
                undone.callback(end.close)
            theirs = [their_end.fileno() for _, their_end in pairs]
            # Python itself passes over what is no text.
            paths = json.dumps([path for path in sys.path if isinstance(path, str)])
            # A signal that comes before the first process can say that it is none of its own.
            with blocked_for_children(BLOCKED):
                # -P: what lies in the working folder must not stand for a module of Python's.
                self._first = subprocess.Popen(
                    [sys.executable, "-P", "-c", _PROGRAM, paths, json.dumps([alive.fileno(), theirs])],
                    stdin=subprocess.DEVNULL, pass_fds=[alive.fileno(), *theirs], start_new_session=True,
                )  # fmt: skip
            undone.pop_all()
        alive.close()
        self._processes = []
        for our_end, their_end in pairs:
            their_end.close()
            self._processes.append(_Process(our_end))

    @property
    def has_idle(self) -> bool:
        """True if a process waits for work."""
        return any(process.piece is None for process in self._processes)

    def start(self, work: Work[J, T], shared: Shared, job: J) -> int | None:
        """Hand a piece of work to a process that has none.

        Args:
            work: function, importable by its name.
            shared: what all share; sent to a process once for as long as it stays the same.
            job: the piece.
        Returns:
            Number of the piece; None where no process is left to take it.
        """
        piece = pickle.dumps((work, job))
        while (process := next((each for each in self._processes if each.piece is None), None)) is not None:
            try:
                process.connection.send_bytes(b"" if process.shared is shared else self._bytes_of(shared))
                process.connection.send_bytes(piece)
            except OSError:
                # It was lost while it had no work.
                self._forget(process)
                continue
            process.piece, process.shared = self._pieces, shared
            self._pieces += 1
            return process.piece
        return None

    def _bytes_of(self, shared: Shared) -> bytes:
        if self._packed is None or self._packed[0] is not shared:
            self._packed = (shared, pickle.dumps(shared))
        return self._packed[1]

    def ended(self, timeout_s: float | None) -> list[tuple[int, Any]]:
        """Pieces of work that have ended, each with what it returned or with the error that it raised.

        A piece whose process is gone has a :class:`ProcessLost`.

        Args:
            timeout_s: seconds to wait for the first one; None without end.
        """
        by_connection = {process.connection: process for process in self._processes}
        found = []
        for each in connection.wait(list(by_connection), timeout_s):
            process = by_connection[each]  # type: ignore[index]  # of those that were waited for
            piece, process.piece = process.piece, None
            try:
                answer = process.connection.recv_bytes()
            except (EOFError, OSError):
                self._forget(process)
                end: Any = ProcessLost("it crashed, was killed, or ran out of memory")
            else:
                end = _read(answer)
            if piece is not None:
                found.append((piece, end))
        return found

    def result(self, piece: int) -> Any:
        """Wait for a piece of work while no other one is under way, and return what it returned.

        Raises:
            ProcessLost: its process is gone.
            Exception: what it raised.
        """
        while True:
            for ended, end in self.ended(None):
                if ended == piece and isinstance(end, Exception):
                    raise end
                if ended == piece:
                    return end

    def renew(self, size: int) -> None:
        """End the processes, whatever they do, and start others.

        Args:
            size: number of the new ones.
        """
        self.close()
        self._begin(size)

    @property
    def is_whole(self) -> bool:
        """True if there are as many processes as the pool began with."""
        return len(self._processes) == self.size

    def close(self) -> None:
        """End the processes at once, whatever they do."""
        # Once waited for, its number may be another process's.
        if self._first.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._first.pid, signal.SIGKILL)
            self._first.wait()
        self._alive.close()
        for process in list(self._processes):
            self._forget(process)

    def _forget(self, process: _Process) -> None:
        process.connection.close()
        self._processes.remove(process)


@contextlib.contextmanager
def local_pool(size: int) -> Iterator[LocalPool | None]:
    """A pool for as long as the block lasts; None where one process is enough."""
    if size < 2:
        yield None
        return
    pool = LocalPool(size)
    try:
        yield pool
    finally:
        pool.close()


def _read(answer: bytes) -> Any:
    """Read an answer: the result of a piece of work, its error, or the one that keeps it from being read."""
    try:
        end = pickle.loads(answer)
        if not isinstance(end, Raised):
            return end
        error = None if end.error is None else pickle.loads(end.error)
    except Exception as unreadable:
        return unreadable
    if not isinstance(error, Exception):
        # One that cannot be sent is told by the name that it has.
        error = type(end.kind, (RuntimeError,), {})(end.message)
    error.__cause__ = WorkerTraceback(end.details)
    return error
