"""Drain of a sweep on Ctrl-C, SIGTERM, SIGUSR1 or `selmix stop`; a second signal ends the sweep at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from orchestrator.messages import counted
from orchestrator.progress import Progress
from orchestrator.records.folder import RunFolder
from orchestrator.records.leases.lease import Lease
from orchestrator.records.stop_request import StopRequest, stop_request
from orchestrator.records.store import runs_flag
from orchestrator.records.types import SweepState
from orchestrator.signals import (
    STOPPING,
    Stopped,
    exit_code_after,
    raised_again,
    signal_soon,
    stopped_by_signals,
)
from orchestrator.table import paragraph, sentence

OVERDUE_S = 12.0
"""Seconds from the signal after which the driver leaves by itself."""

LOOK_EVERY_S = 1.0
"""Seconds between two looks for a request to stop, where the store needs no longer."""


TERMINAL_GONE = "the terminal is gone, the sweep goes on; `selmix stop` stops it"


# A BaseException, so that no ``except Exception`` on the way swallows it.
class Drained(BaseException):
    """Request to leave at once: the sweep drains, and no run is alive."""


@contextlib.contextmanager
def stopped_at_once(progress: Progress, command: str) -> Iterator[threading.Event]:
    """Let a signal end a launch while its driver does not listen yet: nothing is under way then.

    A terminal that closes does not end it, as it does not end a driver.

    Args:
        progress: says how to go on.
        command: that resumes the sweep.
    Yields:
        An event, to be set once the driver has ended: what is left is to close, whatever signal comes.
    Raises:
        Stopped: a signal came.
    """
    over = threading.Event()
    before = signal.signal(signal.SIGHUP, lambda *_: progress.say(TERMINAL_GONE))
    try:
        with stopped_by_signals(over.is_set):
            yield over
    except Stopped:
        progress.say(f"stopped: what is finished is kept; {command}: resume")
        raise
    finally:
        signal.signal(signal.SIGHUP, before)


def kept_text(folder: RunFolder, state: SweepState, command: str, width: int | None) -> str:
    """Text at the end of a launch that ends early: the finished runs, and what to do next.

    Args:
        folder: records of the sweep.
        state: of the sweep, as it ends.
        command: that resumes it.
        width: columns of the terminal; None: lines stay whole.
    """
    records = [*folder.load_trials(), *folder.load_baselines()]
    finished = sum(record.state in ("FINISHED", "PRUNED") for record in records)
    resumes = sum(record.state == "INTERRUPTED" for record in records)
    from_checkpoint = sum(
        record.state == "INTERRUPTED" and record.checkpoint is not None for record in records
    )
    how = "cancelled for good" if state.cancelled else state.state
    kept = f"{folder.name} is {how}: {counted(finished, 'finished run')} kept"
    if resumes and not state.cancelled and state.state == "stopped":
        kept += f", {counted(resumes, 'other')} to be resumed ({from_checkpoint} from a checkpoint)"
    flag = runs_flag(folder.store.shown)
    steps = [f"selmix show {folder.name}{flag}: what there is so far"]
    if state.state == "stopped" and not state.cancelled:
        steps.insert(0, f"{command}: resume")
    failed = next((record.trial_id for record in records if record.state == "FAILED"), None)
    if state.state == "failed" and failed is not None:
        steps.insert(0, f"selmix logs {folder.name} {failed}{flag}: the traceback of a failed run")
    lines = [paragraph("" if number else "next", step, width) for number, step in enumerate(steps)]
    return "\n".join([sentence(kept, width), "", *lines])


class Drain:
    """State of the drain: if the sweep is to stop, and why.

    Args:
        progress: shows, once, that the sweep drains.
        lease: of the sweep; losing it drains the sweep too.
        overdue: called on a thread of its own where the sweep has not stopped within 12 s: Ray can block for a minute
            when a signal to the whole process group took its processes away.
        ray_started: set once Ray is there, or has failed to come.
    Attributes:
        at_once: True to raise :class:`Drained` from the signal's handler; False where runs are alive, which end at
            the next look at :meth:`is_requested`.
    """

    def __init__(
        self, progress: Progress, lease: Lease, overdue: Callable[[], None], ray_started: threading.Event
    ) -> None:
        self._progress, self._lease, self._overdue, self._ray_started = progress, lease, overdue, ray_started
        self._deadline: threading.Timer | None = None
        self._signal: int | None = None
        self._before: dict[int, Any] = {}
        self._over = threading.Event()
        self._watch: threading.Thread | None = None
        self._unseen: threading.Timer | None = None
        self._raised = contextlib.ExitStack()
        self.at_once = True

    def listen(self) -> None:
        """Install the signal handlers."""
        self._raised.close()
        self._raised.enter_context(raised_again(Drained, self._on_unseen))
        for number in STOPPING:
            before = signal.signal(number, self._on_signal)
            # The first call holds: on the second one the handler before is ours or Ray's.
            self._before.setdefault(number, before)
        # A terminal that closes takes its progress line with it, not the sweep.
        self._before.setdefault(signal.SIGHUP, signal.signal(signal.SIGHUP, self._on_hangup))
        if self._watch is None:
            self._watch = threading.Thread(target=self._look, name="selmix-stop", daemon=True)
            self._watch.start()

    def _look(self) -> None:
        """Turn a request to stop in the run folder into a SIGTERM to this process: there is one way to stop."""
        store = self._lease.folder.store
        # The store says how often it may be looked at: each look at object storage is a request.
        while not self._over.wait(max(LOOK_EVERY_S, store.watch_s)):
            # Not while Ray starts: it takes the signal for itself then, and would not drain.
            if self._ray_started.is_set() and self._signal is None and self.request() is not None:
                # SIGTERM and not SIGINT, which is blocked in Ray's jobs.
                os.kill(os.getpid(), signal.SIGTERM)
            # Logs are queued where they are written: that may be a signal handler, which must take no lock.
            store.flush()

    def request(self) -> StopRequest | None:
        """Request of `selmix stop` to this driver; None where there is none."""
        return stop_request(self._lease.folder, self._lease.holder.token)

    def restore(self) -> None:
        """Restore the signal handlers, and end the threads."""
        self._over.set()
        if self._watch is not None:
            self._watch.join()
        if self._deadline is not None:
            self._deadline.cancel()
        self._raised.close()
        # Its signal would meet the handler of before.
        if self._unseen is not None:
            self._unseen.cancel()
        for number, before in self._before.items():
            signal.signal(number, before)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._unseen is not None:
            self._unseen = None
            if self.at_once:
                raise Drained
            return
        # The second signal: whoever sends it does not want to wait for the drain.
        if self._signal is not None:
            raise KeyboardInterrupt
        self._signal = number
        self._progress.say(
            "stopping: what is finished is kept, launch again to resume (a second signal stops at once)"
        )
        self._deadline = threading.Timer(OVERDUE_S, self._overdue)
        self._deadline.daemon = True
        self._deadline.start()
        if self.at_once:
            raise Drained

    def _on_unseen(self, _drained: Drained) -> None:
        self._unseen = signal_soon(self._signal or signal.SIGTERM)

    def _on_hangup(self, _number: int, _frame: FrameType | None) -> None:
        self._progress.say(TERMINAL_GONE)

    def is_requested(self) -> bool:
        """True once the sweep is to stop."""
        return self._signal is not None or self._lease.lost

    @property
    def exit_code(self) -> int:
        """Exit code of the launch: 130 after Ctrl-C, 143 after any other signal, 4 where the lease was lost."""
        if self._signal is None:
            return 4
        return exit_code_after(self._signal)
