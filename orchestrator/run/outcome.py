"""Outcome of a run, made in one place from the report or the error of Tune, Ray or the trainable."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainables.failures import RankLost

Kind = Literal["finished", "failed", "worker_lost", "out_of_memory", "stopped", "pruned"]

_MEMORY = re.compile(
    r"\bOutOfMemoryError\b|\bMemoryError\b|out of memory|running low on memory|_ALLOC_FAILED", re.I
)
"""Words of torch, Python, CUDA, and of Ray's own guard, which ends workers before the kernel does."""
# Ray's error of an actor is the same whether its process died or its node: only the text tells.
_NODE = re.compile(r"node (has )?died|node was (terminated|preempted)|node is dead", re.I)


@dataclass(frozen=True)
class RunOutcome:
    """Outcome of a run.

    Attributes:
        kind: ``finished``; ``failed`` by itself, wherever it runs; ``worker_lost``, worker or node, so that the run
            resumes elsewhere; ``out_of_memory``, which need not be so when exclusive; ``stopped`` with the sweep, in
            the midst of the run; ``pruned``, stopped early by itself, for good.
        reason: cause of death, in one line; of a pruned run what stopped it.
        details: traceback as the worker had it; empty where it left none.
        score: of the chosen round of a finished run, of the best round so far of a pruned one.
        violation: of the constraints in that round, 0.0 where they hold.
        round: of a pruned run: its best round so far.
        steps: of a pruned run: SGD steps up to that round.
    """

    kind: Kind
    reason: str = ""
    details: str = ""
    score: float | None = None
    violation: float = 0.0
    round: int | None = None
    steps: int | None = None

    @classmethod
    def pruned(cls, report: Mapping[str, Any], method: str) -> RunOutcome:
        """Build the outcome of a run that is stopped early, by its last report.

        Args:
            report: of the trainable.
            method: that stopped it.
        """
        best, steps = report["best"], report["row"]["steps"]
        return cls(
            "pruned", f"early stopping ({method}) after {steps} steps", score=best["score"],
            violation=best["violation"], round=best["round"], steps=best["steps"],
        )  # fmt: skip

    @classmethod
    def of_report(cls, report: Mapping[str, Any] | None) -> RunOutcome:
        """Build the outcome from the last report of a trainable.

        Args:
            report: of the trainable, or with its keys flattened, as Tune passes it on; None where there is none.
        """
        # Tune calls a run that it stops complete too: only ``finished`` tells the two apart.
        if report is None or not report.get("finished", False):
            return cls("stopped")
        if report["failed"]:
            return cls("failed", str(report["stop_reason"]))
        best = report.get("best") or {key: report[f"best/{key}"] for key in ("score", "violation")}
        return cls("finished", score=best["score"], violation=best["violation"])

    @classmethod
    def of_error(cls, error: BaseException | None, details: str = "") -> RunOutcome:
        """Build the outcome from an exception of the run or of Ray.

        Args:
            error: that ended the run; None where a worker died without any.
            details: traceback of the error; empty where the error carries it, as Ray's do.
        """
        if error is None:
            return cls("worker_lost", "the worker process died")
        # Ray wraps what a worker raised.
        cause = getattr(error, "cause", None) or error
        details = details or str(error)
        # By its text, because CUDA reports some shortages as a RuntimeError. First of all, because a worker that Ray's
        # memory guard ended may be reported as one that died.
        if _MEMORY.search(f"{type(cause).__name__}: {error}"):
            return cls("out_of_memory", _line(cause), details)
        # Raised by the actor that steps the ranks of a trial: it is alive itself.
        if isinstance(cause, RankLost):
            return cls("worker_lost", _line(cause), details)
        if _is_gone(cause):
            reason = "its node died" if _NODE.search(str(cause)) else "the worker process died"
            return cls("worker_lost", reason, details)
        return cls("failed", _line(cause), details)

    @classmethod
    def of_trial(cls, trial: Any) -> RunOutcome:
        """Build the outcome from a trial of Tune that ended with an error."""
        exception = _exception_of(trial)
        return cls.of_error(trial.get_error() if exception is None else exception)


def _is_gone(cause: BaseException) -> bool:
    """True if the error is one by which Ray reports a worker or node that went away."""
    # In a process without Ray the error cannot be one of Ray's, and importing it takes seconds.
    if "ray" not in sys.modules:
        return False
    from ray import exceptions

    gone = (
        exceptions.RayActorError, exceptions.WorkerCrashedError, exceptions.NodeDiedError,
        exceptions.LocalRayletDiedError, exceptions.ObjectLostError, exceptions.ActorPlacementGroupRemoved,
    )  # fmt: skip
    # Ray also reports an actor whose constructor raised as dead, which is the run's own fault.
    return isinstance(cause, gone) and not getattr(cause, "actor_init_failed", False)


def _line(cause: BaseException) -> str:
    """Type and last line of an error."""
    # The last line, because Ray's errors begin with the traceback.
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    text = lines[-1].strip() if lines else ""
    kind = type(cause).__name__
    return text if text.startswith(kind) else f"{kind}: {text}".rstrip(": ")


def _exception_of(trial: Any) -> BaseException | None:
    """Exception of a trial, from the file that Tune writes at once; the copy on the storage comes later."""
    path = getattr(trial, "pickled_error_file", None)
    if path is None or not Path(path).is_file():
        return None
    from ray import cloudpickle, exceptions

    try:
        error = cloudpickle.loads(Path(path).read_bytes())
    except Exception:  # a boundary: unpickling a user's exception may raise anything
        return None
    return error if isinstance(error, exceptions.RayError) else None
