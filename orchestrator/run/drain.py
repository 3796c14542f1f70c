"""Ctrl-C, SIGTERM, SIGUSR1 or `selmix stop`: the first drains the sweep, a second signal ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from orchestrator.progress import Progress
from orchestrator.records.lease import Lease
from orchestrator.records.stop_request import StopRequest, stop_request
from orchestrator.signals import STOPPING, exit_code_after

OVERDUE_S = 12.0
LOOK_EVERY_S = 1.0


class Drained(BaseException):
    """The sweep drains and no run is alive: leave at once."""


class Drain:
    """Knows if the sweep is to stop, and why.

    Args:
        progress: shows, once, that it drains.
        lease: one that was lost drains the sweep too.
        overdue: called on a thread of its own where the sweep has not stopped within 12 s: Ray can block for a minute
            when a signal to the whole process group took its processes away.
    """

    def __init__(self, progress: Progress, lease: Lease, overdue: Callable[[], None]) -> None:
        self._progress, self._lease, self._overdue = progress, lease, overdue
        self._watch: threading.Timer | None = None
        self._signal: int | None = None
        self._before: dict[int, Any] = {}
        self._over = threading.Event()
        self._lookout: threading.Thread | None = None
        self.at_once = True
        """Raise :class:`Drained` from the signal's handler instead of waiting to be looked at."""

    def listen(self) -> None:
        """Take the signals; again after Ray has started, which takes SIGTERM for itself."""
        for number in STOPPING:
            before = signal.signal(number, self._on_signal)
            self._before.setdefault(number, before)
        if self._lookout is None:
            self._lookout = threading.Thread(target=self._look, name="selmix-stop", daemon=True)
            self._lookout.start()

    def _look(self) -> None:
        """Turn a request in the run folder into a SIGTERM to ourselves: one way to stop, whoever asks for it.

        Not while Ray starts, which takes the signal for itself and would not drain; SIGINT is blocked in Ray's jobs.
        """
        store = self._lease.folder.store
        while not self._over.wait(max(LOOK_EVERY_S, store.watch_s)):
            ours = signal.getsignal(signal.SIGTERM) == self._on_signal
            if ours and self._signal is None and self.request() is not None:
                os.kill(os.getpid(), signal.SIGTERM)
            store.flush()

    def request(self) -> StopRequest | None:
        """Request of `selmix stop` to this driver."""
        return stop_request(self._lease.folder, self._lease.holder.token)

    def restore(self) -> None:
        """Give the signals back."""
        self._over.set()
        if self._lookout is not None:
            self._lookout.join()
        if self._watch is not None:
            self._watch.cancel()
        for number, before in self._before.items():
            signal.signal(number, before)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._signal is not None:
            raise KeyboardInterrupt
        self._signal = number
        self._progress.say(
            "stopping: what is finished is kept, launch again to resume (once more: stop at once)"
        )
        self._watch = threading.Timer(OVERDUE_S, self._overdue)
        self._watch.daemon = True
        self._watch.start()
        if self.at_once:
            raise Drained

    def is_requested(self) -> bool:
        """True once the sweep is to stop."""
        return self._signal is not None or self._lease.lost

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after any other signal; 4 where the lease was lost."""
        if self._signal is None:
            return 4
        return exit_code_after(self._signal)
