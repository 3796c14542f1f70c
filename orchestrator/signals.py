"""Signals that ask a command to stop and to keep its finished work, and the exit codes that go with them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

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
        self.exit_code = exit_code_after(number)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise :class:`Stopped` on a signal inside the block, also where the shell that started us ignores Ctrl-C."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
