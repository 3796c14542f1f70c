"""Signals that ask a command to stop and to keep its finished work, and the exit codes that go with them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TypeVar

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Batch systems send SIGUSR1 before the time limit; left alone it would kill the process."""


def exit_code_after(number: int) -> int:
    """130 after Ctrl-C, 143 after any other signal."""
    # 128 + the signal's number, as a shell reports it.
    return 128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal asks to stop; finished work is kept."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.exit_code = exit_code_after(number)


@contextlib.contextmanager
def stopped_by_signals(over: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Raise :class:`Stopped` on a signal inside the block, also where the shell that started us ignores Ctrl-C.

    Args:
        over: returns True once there is nothing left to stop: signals do nothing then.
    """
    again: list[tuple[threading.Timer, int]] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        again.clear()
        if not over():
            raise Stopped(number)

    def unseen(stopped: Stopped) -> None:
        again.append((signal_soon(stopped.number), stopped.number))

    before = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        with raised_again(Stopped, unseen):
            yield
            # It would come when the handlers are those of before.
            for _, number in again:
                raise Stopped(number)
    finally:
        for timer, _ in again:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def blocked_for_children(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Let processes that start inside the block take none of these signals; they come here once it is over.

    A terminal, `timeout` or Slurm sends a signal to the whole process group. Children inherit the mask of this thread,
    which is restored.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


E = TypeVar("E", bound=BaseException)


@contextlib.contextmanager
def raised_again(kind: type[E], again: Callable[[E], None]) -> Iterator[None]:
    """See to an exception of a signal's handler that nobody sees.

    A handler runs wherever the main thread is: in the midst of a ``__del__``, or of a callback of the garbage
    collector, what it raises is printed, and forgotten.

    Args:
        kind: of the exception.
        again: called with it; must let the handler run again, later.
    """
    hook = sys.unraisablehook

    def seen(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, kind):
            again(unraisable.exc_value)
        else:
            hook(unraisable)

    sys.unraisablehook = seen
    try:
        yield
    finally:
        # Another one's, which was set meanwhile, stays.
        if sys.unraisablehook is seen:
            sys.unraisablehook = hook


def signal_soon(number: int) -> threading.Timer:
    """Send a signal to this process, once what it does now is over."""
    timer = threading.Timer(0.02, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()
    return timer
