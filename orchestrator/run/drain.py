"""Ctrl-C, SIGTERM, SIGUSR1 or `selmix stop`: the first drains the sweep, a second signal ends it at once.

SIGUSR1 is what batch systems send before the time limit; left alone it would kill the driver.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from orchestrator.errors import STOPPING, exit_code_after
from orchestrator.progress import Progress
from orchestrator.records.lease import Lease
from orchestrator.run.stop import requested

OVERDUE_S = 12.0
LOOK_EVERY_S, STORE_LOOK_EVERY_S = 1.0, 5.0


class Drained(BaseException):
    """Draining was asked for where no run is alive: leave at once."""


class Drain:
    """Whether the sweep is to stop, and why.

    Args:
        progress: told once. lease: a lease that was lost drains the sweep too.
        overdue: called on a thread of its own where the sweep has not stopped within 12 s: Ray can block for a minute
            when a signal to the whole process group took its processes away.
    """

    def __init__(self, progress: Progress, lease: Lease, overdue: Callable[[], None]) -> None:
        self._progress, self._lease, self._overdue = progress, lease, overdue
        self._watch: threading.Timer | None = None
        self._signal: int | None = None
        self._before: dict[int, Any] = {}
        self._over = threading.Event()
        self._looking: threading.Thread | None = None
        self.at_once = True
        """Raise :class:`Drained` instead of waiting to be asked."""

    def listen(self) -> None:
        """Take the signals; again after Ray has started, which takes SIGTERM for itself."""
        for number in STOPPING:
            before = signal.signal(number, self._on_signal)
            self._before.setdefault(number, before)
        if self._looking is None:
            self._looking = threading.Thread(target=self._look, name="selmix-stop", daemon=True)
            self._looking.start()

    def _look(self) -> None:
        """A request in the run folder is a SIGTERM to ourselves: one way to stop, whoever asks for it.

        Not while Ray starts, which takes the signal for itself and would not drain; SIGINT is blocked in Ray's jobs.
        """
        store = self._lease.folder.store
        while not self._over.wait(LOOK_EVERY_S if store is None else STORE_LOOK_EVERY_S):
            ours = signal.getsignal(signal.SIGTERM) == self._on_signal
            if ours and self._signal is None and self.request() is not None:
                os.kill(os.getpid(), signal.SIGTERM)
            if store is not None:
                store.flush()

    def request(self) -> dict[str, object] | None:
        """What `selmix stop` asks of this driver."""
        return requested(self._lease.folder, self._lease.holder.token)

    def restore(self) -> None:
        """Give the signals back."""
        self._over.set()
        if self._looking is not None:
            self._looking.join()
        if self._watch is not None:
            self._watch.cancel()
        for number, before in self._before.items():
            signal.signal(number, before)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._signal is not None:
            raise KeyboardInterrupt
        self._signal = number
        self._progress.say(
            "stopping: what is finished is kept, launch again to go on (once more: stop at once)"
        )
        self._watch = threading.Timer(OVERDUE_S, self._overdue)
        self._watch.daemon = True
        self._watch.start()
        if self.at_once:
            raise Drained

    def asked(self) -> bool:
        """Whether to stop now."""
        return self._signal is not None or self._lease.lost

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after any other signal; 4 where the lease was lost."""
        if self._signal is None:
            return 4
        return exit_code_after(self._signal)
