"""What a run died of: its own code, the memory it ran out of, or a worker or node that went away under it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from ray import cloudpickle, exceptions

from trainables.ranks import RankLost


class Fault(Enum):
    """Whose fault a failure is, and so what helps."""

    RAISED = "raised"
    """The run's own: it fails again wherever it runs."""
    MEMORY = "memory"
    """It ran out of memory, perhaps beside neighbours."""
    LOST = "lost"
    """Its worker or node is gone: it goes on elsewhere."""


_GONE = (
    exceptions.RayActorError, exceptions.WorkerCrashedError, exceptions.NodeDiedError,
    exceptions.LocalRayletDiedError, exceptions.ObjectLostError, exceptions.ActorPlacementGroupRemoved,
    RankLost,
)  # fmt: skip
_MEMORY = re.compile(
    r"\bOutOfMemoryError\b|\bMemoryError\b|out of memory|running low on memory|_ALLOC_FAILED", re.I
)
"""Of torch, Python, CUDA, and of Ray's own guard, which ends workers before the kernel does."""
_NODE = re.compile(r"node (has )?died|node was (terminated|preempted)|node is dead", re.I)


@dataclass(frozen=True)
class Failure:
    """One failure of a run.

    Attributes:
        text: what it died of, in one line. details: the traceback as the worker had it; empty where it left none.
    """

    fault: Fault
    text: str
    details: str = ""

    @classmethod
    def of(cls, error: Exception | None) -> Failure:
        """Of what Ray raised; None: a worker died without a word."""
        if error is None:
            return cls(Fault.LOST, "the worker process died")
        fault = _fault(error)
        return cls(fault, _line(error, fault), str(error))

    @classmethod
    def of_trial(cls, trial: Any) -> Failure:
        """Of what a trial of Tune ended with."""
        raised = _raised(trial)
        return cls.of(trial.get_error() if raised is None else raised)


def _fault(error: Exception) -> Fault:
    cause = getattr(error, "cause", None) or error
    if _MEMORY.search(f"{type(cause).__name__}: {error}"):
        return Fault.MEMORY
    gone = isinstance(cause, _GONE) and not getattr(cause, "actor_init_failed", False)
    return Fault.LOST if gone else Fault.RAISED


def _line(error: Exception, fault: Fault) -> str:
    cause = getattr(error, "cause", None) or error
    if fault is Fault.LOST and not isinstance(cause, RankLost):
        return "its node died" if _NODE.search(str(cause)) else "the worker process died"
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    text = lines[-1].strip() if lines else ""
    kind = type(cause).__name__
    return text if text.startswith(kind) else f"{kind}: {text}".rstrip(": ")


def _raised(trial: Any) -> Exception | None:
    """The exception of a trial, from where Tune puts it at once; its copy on the storage comes later."""
    path = getattr(trial, "pickled_error_file", None)
    if path is None or not Path(path).is_file():
        return None
    try:
        error = cloudpickle.loads(Path(path).read_bytes())
    except Exception:  # a user's exception may not be read back: any kind can come out of it
        return None
    return error if isinstance(error, exceptions.RayError) else None
