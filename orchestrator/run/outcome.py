"""How a run ended, made in one place from whatever Tune, Ray or the trainable said."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainables.failures import RankLost

Kind = Literal["finished", "failed", "lost", "out_of_memory", "stopped"]

_MEMORY = re.compile(
    r"\bOutOfMemoryError\b|\bMemoryError\b|out of memory|running low on memory|_ALLOC_FAILED", re.I
)
"""Of torch, Python, CUDA, and of Ray's own guard, which ends workers before the kernel does."""
_NODE = re.compile(r"node (has )?died|node was (terminated|preempted)|node is dead", re.I)


@dataclass(frozen=True)
class RunOutcome:
    """End of a run.

    Attributes:
        kind: ``finished``; ``failed`` by itself, wherever it runs; ``lost`` with its worker or node, so that it resumes
            elsewhere; ``out_of_memory``, perhaps beside neighbours; ``stopped`` in the midst of it, as the sweep was.
        reason: what it died of, in one line.
        details: the traceback as the worker had it; empty where it left none.
        score, violation: of the chosen round of a finished run.
    """

    kind: Kind
    reason: str = ""
    details: str = ""
    score: float | None = None
    violation: float = 0.0

    @classmethod
    def of_report(cls, report: Mapping[str, Any] | None) -> RunOutcome:
        """From the last report of a trainable; Tune hands it over with its keys flattened.

        A run that Tune calls complete but that did not say ``finished`` was stopped.
        """
        if report is None or not report.get("finished", False):
            return cls("stopped")
        if report["failed"]:
            return cls("failed", str(report["stop_reason"]))
        best = report.get("best") or {key: report[f"best/{key}"] for key in ("score", "violation")}
        return cls("finished", score=best["score"], violation=best["violation"])

    @classmethod
    def of_error(cls, error: BaseException | None, details: str = "") -> RunOutcome:
        """From an exception of the run or of Ray; None: a worker died without a word.

        Args:
            error: that ended the run.
            details: its traceback; "" where the error carries it, as Ray's do.
        """
        if error is None:
            return cls("lost", "the worker process died")
        cause = getattr(error, "cause", None) or error
        details = details or str(error)
        if _MEMORY.search(f"{type(cause).__name__}: {error}"):
            return cls("out_of_memory", _line(cause), details)
        if isinstance(cause, RankLost):
            return cls("lost", _line(cause), details)
        if _is_gone(cause):
            reason = "its node died" if _NODE.search(str(cause)) else "the worker process died"
            return cls("lost", reason, details)
        return cls("failed", _line(cause), details)

    @classmethod
    def of_trial(cls, trial: Any) -> RunOutcome:
        """From a trial of Tune that ended with an error."""
        raised = _raised(trial)
        return cls.of_error(trial.get_error() if raised is None else raised)


def _is_gone(cause: BaseException) -> bool:
    """True for Ray's ways to say that a worker or node went away."""
    if "ray" not in sys.modules:
        return False
    from ray import exceptions

    gone = (
        exceptions.RayActorError, exceptions.WorkerCrashedError, exceptions.NodeDiedError,
        exceptions.LocalRayletDiedError, exceptions.ObjectLostError, exceptions.ActorPlacementGroupRemoved,
    )  # fmt: skip
    # An actor whose constructor raised is dead too, but by its own fault.
    return isinstance(cause, gone) and not getattr(cause, "actor_init_failed", False)


def _line(cause: BaseException) -> str:
    """Kind and last line of an error."""
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    text = lines[-1].strip() if lines else ""
    kind = type(cause).__name__
    return text if text.startswith(kind) else f"{kind}: {text}".rstrip(": ")


def _raised(trial: Any) -> BaseException | None:
    """The exception of a trial, from where Tune puts it at once; its copy on the storage comes later."""
    path = getattr(trial, "pickled_error_file", None)
    if path is None or not Path(path).is_file():
        return None
    from ray import cloudpickle, exceptions

    try:
        error = cloudpickle.loads(Path(path).read_bytes())
    except Exception:  # a user's exception may not be read back: any kind can come out of it
        return None
    return error if isinstance(error, exceptions.RayError) else None
