"""Errors that a user reads, each with the exit code that goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class SelmixError(Exception):
    """An error in the user's words: where, what must hold, what was got, what to do."""

    exit_code: ClassVar[int] = 1


class UsageError(SelmixError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class SpecError(SelmixError):
    """The sweep file is invalid; its message has every problem, one per line."""

    exit_code = 3

    def __init__(self, problems: Sequence[str]) -> None:
        # A list too, for readers that report each problem by itself.
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class PreflightError(SelmixError):
    """Something that the sweep needs is not there: storage, MLflow, data, a checkpoint, resources, the lease."""

    exit_code = 4


class TooManyFailures(SelmixError):
    """More trials failed than the sweep file allows."""

    exit_code = 5


class NoFeasibleTrial(SelmixError):
    """No row of some objective meets the constraints."""

    exit_code = 6


class NotReproduced(SelmixError):
    """A digest or a number differs from the pin's."""

    exit_code = 7


class NotFound(SelmixError):
    """No such sweep, run or pin."""

    exit_code = 8
