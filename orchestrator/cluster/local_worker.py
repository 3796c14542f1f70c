"""Program of the processes of :mod:`orchestrator.cluster.local_pool`: one imports torch, and forks the others.

None of them imports the script that started the sweep.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from orchestrator.signals import STOPPING
from trainables.node import import_torch

BLOCKED = {*STOPPING, signal.SIGHUP}
"""Signals of a terminal or a batch system, which go to all processes: they are the driver's, which drains."""


@dataclass(frozen=True)
class Raised:
    """An exception on its way to the driver.

    Attributes:
        error: as bytes; None of one that cannot be sent, or not be read again.
        kind: name of its class.
        message: its text.
        details: its traceback.
    """

    error: bytes | None
    kind: str
    message: str
    details: str

    @classmethod
    def of(cls, error: BaseException) -> Raised:
        try:
            sent = pickle.dumps(error)
            # An exception that takes other arguments than it passes on is written, and cannot be read.
            pickle.loads(sent)
        except Exception:  # whatever keeps it from travelling: its words do
            sent = None
        details = "".join(traceback.format_exception(error))
        return cls(sent, type(error).__name__, str(error), details)


def main(alive: int, ends: Sequence[int]) -> None:
    """Fork a process for each connection, and end with the last of them.

    Args:
        alive: descriptor of a pipe that ends with the driver.
        ends: descriptors of the connections.
    """
    # Blocked since the driver started this process. Handlers of nothing, since what the work starts has its own again.
    for number in BLOCKED:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
    import_torch()
    # What is there now is never freed: the processes share it.
    gc.freeze()
    for end in ends:
        if not os.fork():
            for other in ends:
                if other != end:
                    os.close(other)
            threading.Thread(target=_end_with_driver, args=(alive,), daemon=True).start()
            serve(Connection(end))
            os._exit(0)
    for end in ends:
        os.close(end)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def serve(connection: Connection) -> None:
    """Do pieces of work as they come, until the driver closes its end.

    Args:
        connection: to the driver.
    """
    shared: Any = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            new, piece = connection.recv_bytes(), connection.recv_bytes()
            try:
                shared = pickle.loads(new) if new else shared
                work, job = pickle.loads(piece)
                # As bytes and not as torch sends tensors to a process, which takes an open file for each.
                done = pickle.dumps(work(shared, job, 0.0))
            except BaseException as error:
                done = pickle.dumps(Raised.of(error))
            connection.send_bytes(done)


def _end_with_driver(alive: int) -> None:
    """End this process in the midst of its work once the driver is gone, however it ended."""
    os.read(alive, 1)
    os._exit(0)
