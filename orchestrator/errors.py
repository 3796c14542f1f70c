"""Errors that a user reads, each with the exit code that goes with it."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import ClassVar


class SelmixError(Exception):
    """What went wrong, in the user's words: where, what must hold, what was got, what to do."""

    exit_code: ClassVar[int] = 1


class UsageError(SelmixError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class SpecError(SelmixError):
    """The sweep file is invalid; every problem at once."""

    exit_code = 3

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class PreflightError(SelmixError):
    """Something that the sweep needs is not there: storage, MLflow, data, a checkpoint, resources, the lease."""

    exit_code = 4


class TooManyFailures(SelmixError):
    """More trials failed than the sweep file allows."""

    exit_code = 5


class NoFeasibleTrial(SelmixError):
    """No trial of some objective meets the constraints."""

    exit_code = 6


class NotReproduced(SelmixError):
    """A digest or a number differs from the pin's."""

    exit_code = 7


class NotFound(SelmixError):
    """No such sweep, run or pin."""

    exit_code = 8


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""What asks a command to stop and to keep what is done."""


def exit_code_after(number: int) -> int:
    """130 after Ctrl-C, 143 after any other signal."""
    return 128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal asks to stop; what is done is kept."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = exit_code_after(number)
