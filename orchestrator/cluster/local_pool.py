"""Processes of this machine that work side by side without Ray: for work of seconds, when Ray takes longer to start."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing import forkserver
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from orchestrator.cluster.capacity import Machine, fits
from orchestrator.signals import STOPPING
from orchestrator.spec.sections import ResourceSection
from trainables.shared import Shared

MOST = 16
"""Processes at most: each has torch of its own, and the cheap rungs have hardly more pieces of work."""

_IMPORTED_ONCE = ("torch._dynamo", "trainables.baseline", "trainables.heads", "trainables.screen")
"""Modules of the server; torch imports its compiler as soon as there is an optimizer, which takes a second."""

J = TypeVar("J")
T = TypeVar("T")


def local_processes(resources: ResourceSection, cpus: float) -> int:
    """Number of processes that work side by side on this machine; 1 with a GPU, which one process uses best.

    Args:
        resources: of a worker.
        cpus: of this machine.
    """
    one = resources.model_copy(update={"workers": 1})
    return 1 if resources.gpu else max(1, min(MOST, fits(one, [Machine(cpus, 0.0)])))


class LocalPool:
    """Processes that wait for work; they end with the pool, and with this process however it ends.

    They are forked off a server that imports torch once, at once, while this process does other things.

    Args:
        size: number of processes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._scratch = tempfile.TemporaryDirectory(prefix="selmix-")
        self._stored: tuple[Shared, str] | None = None
        # Forked off this process, they would have the locks of torch's threads without the threads.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(_IMPORTED_ONCE))
        with _without_main(), _signals_for_the_driver():
            forkserver.ensure_running()
        self._pool = self._new()

    def _new(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.size, self._context, _begin)

    def submit(self, work: Callable[[Shared, J, float], T], shared: Shared, job: J) -> Future[T]:
        """Hand a piece of work to a process; with more of them than processes the others wait.

        Args:
            work: function of what all share, of a piece, and of the GPUs of its worker: 0.
            shared: what all share; read by each process once for as long as it stays the same.
            job: the piece.
        """
        path = self._path_of(shared)
        try:
            return self._submitted(work, path, job)
        except BrokenProcessPool:
            # A process was lost that had no work.
            self.restart()
            return self._submitted(work, path, job)

    def begin(self, work: Callable[[Shared, J, float], T], shared: Shared, job: J) -> Future[T]:
        """Submit a piece of work without waiting for the server, which :meth:`submit` does while it imports torch.

        Before anything else is submitted, its end must be waited for.
        """
        begun = Future[T]()

        def hold() -> None:
            try:
                begun.set_result(self.submit(work, shared, job).result())
            except BaseException as error:  # raised where it is waited for
                begun.set_exception(error)

        threading.Thread(target=hold, name="selmix-begin", daemon=True).start()
        return begun

    def _submitted(self, work: Callable[[Shared, J, float], T], path: str, job: J) -> Future[T]:
        # A process starts where none is idle.
        with _without_main():
            return self._pool.submit(_work, work, path, job)

    def _path_of(self, shared: Shared) -> str:
        if self._stored is None or self._stored[0] is not shared:
            # Under a new name, since a process keeps what it has read by its name.
            path = Path(self._scratch.name) / secrets.token_hex(8)
            path.write_bytes(pickle.dumps(shared))
            self._stored = (shared, str(path))
        return self._stored[1]

    def restart(self) -> None:
        """Begin anew where a process was lost, which ends the work of all."""
        self._end()
        self._pool = self._new()

    def close(self) -> None:
        """End the processes at once, whatever they do."""
        self._end()
        _end_server()
        self._scratch.cleanup()

    def _end(self) -> None:
        # Emptied by the pool itself where it has ended.
        for process in list((self._pool._processes or {}).values()):
            process.kill()
        self._pool.shutdown(wait=False, cancel_futures=True)


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


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Let processes that start in the block leave the main script alone: a user's would launch the sweep again."""
    main, alike = sys.modules["__main__"], ModuleType("__main__")
    # By these a process would find the script. Others may look into the module meanwhile.
    vars(alike).update(
        {key: value for key, value in vars(main).items() if key not in ("__file__", "__spec__")}
    )
    sys.modules["__main__"] = alike
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _signals_for_the_driver() -> Iterator[None]:
    """Let the server get no signal of a terminal or a batch system, which goes to all: the driver drains.

    It takes no SIGINT by itself, and multiprocessing lets it have SIGTERM, after which it is started again.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_server() -> None:
    """End the server that processes were forked off, where nothing of ours is to stay, in a notebook."""
    # Not public; where another version has them elsewhere, the server ends with this process.
    server = forkserver._forkserver
    pid, stop = getattr(server, "_forkserver_pid", None), getattr(server, "_stop", None)
    if pid is not None and stop is not None:
        # By itself it takes its interpreter apart, while `stop` waits.
        os.kill(pid, signal.SIGKILL)
        stop()


def _begin() -> None:
    """Begin a process: signals are for the driver, and without it there is nothing to wait for."""
    for number in (*STOPPING, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def leave() -> None:
        if parent is not None:
            parent.join()
        os._exit(0)

    threading.Thread(target=leave, name="selmix-parent", daemon=True).start()


def _work(work: Callable[[Shared, J, float], T], path: str, job: J) -> T:
    return work(_shared(path), job, 0.0)


@lru_cache(maxsize=1)
def _shared(path: str) -> Shared:
    # Written by the driver of this very launch, in a folder that its user alone may read.
    shared: Shared = pickle.loads(Path(path).read_bytes())
    return shared
