"""Outcome of a run: worker lost, out of memory, failed by itself, finished, or stopped with the sweep."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from ray import cloudpickle
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from orchestrator.run.outcome import Kind, RunOutcome
from trainables.failures import RankFailed, RankLost


def raised(cause: Exception) -> RayTaskError:
    """As a worker's exception reaches the driver."""
    error = RayTaskError("step", f"Traceback\n{type(cause).__name__}: {cause}", cause)
    as_cause: RayTaskError = error.as_instanceof_cause()
    return as_cause


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (raised(ValueError("too hot")), "failed", "ValueError: too hot"),
        (
            raised(torch.OutOfMemoryError("CUDA out of memory. Tried")),
            "out_of_memory",
            "OutOfMemoryError: CUDA",
        ),
        (raised(RuntimeError("CUDA error: out of memory")), "out_of_memory", "RuntimeError: CUDA error"),
        (raised(MemoryError()), "out_of_memory", "MemoryError"),
        (
            raised(RankFailed("worker 1 of 2: OutOfMemoryError: CUDA")),
            "out_of_memory",
            "RankFailed: worker 1",
        ),
        (raised(RankFailed("worker 1 of 2: ValueError: no")), "failed", "RankFailed: worker 1"),
        (raised(RankLost("worker 1 of 2 died: its process")), "worker_lost", "RankLost: worker 1 of 2 died"),
        (OutOfMemoryError("node running low on memory"), "out_of_memory", "OutOfMemoryError"),
        (
            ActorDiedError(RayTaskError("__init__", "ValueError: no start", ValueError("no start"))),
            "failed",
            "ActorDiedError",
        ),
        (ActorDiedError(), "worker_lost", "the worker process died"),
        (NodeDiedError("The actor died because its node has died."), "worker_lost", "its node died"),
        (WorkerCrashedError(), "worker_lost", "the worker process died"),
        (ValueError("here"), "failed", "ValueError: here"),
        (None, "worker_lost", "the worker process died"),
    ],
)
def test_an_error_as_an_outcome(error: Exception | None, kind: Kind, reason: str) -> None:
    outcome = RunOutcome.of_error(error)
    assert outcome.kind == kind
    assert outcome.reason.startswith(reason)


def test_details_are_the_traceback() -> None:
    assert RunOutcome.of_error(ValueError("no"), "Traceback\nValueError: no").details.startswith("Traceback")
    assert RunOutcome.of_error(raised(ValueError("no"))).details.startswith("Traceback")


def test_what_tune_keeps_of_a_trial(tmp_path: Path) -> None:
    trial = MagicMock(pickled_error_file=str(tmp_path / "error.pkl"))
    trial.get_error.return_value = RuntimeError("copied later")
    assert RunOutcome.of_trial(trial).reason == "RuntimeError: copied later"
    (tmp_path / "error.pkl").write_bytes(cloudpickle.dumps(ActorDiedError()))
    lost = RunOutcome("worker_lost", "the worker process died", str(ActorDiedError()))
    assert RunOutcome.of_trial(trial) == lost
    (tmp_path / "error.pkl").write_bytes(b"not a pickle")
    assert RunOutcome.of_trial(trial).kind == "failed"


def test_reports_of_a_trainable() -> None:
    finished = {"finished": True, "failed": False, "best/score": 0.5, "best/violation": 0.1}
    assert RunOutcome.of_report(finished) == RunOutcome("finished", score=0.5, violation=0.1)
    nested = {"finished": True, "failed": False, "best": {"score": 0.5, "violation": 0.1}}
    assert RunOutcome.of_report(nested) == RunOutcome.of_report(finished)
    broken = {"finished": True, "failed": True, "stop_reason": "a logit was not finite"}
    assert RunOutcome.of_report(broken) == RunOutcome("failed", "a logit was not finite")
    for cut in (None, {}, {"finished": False}):
        assert RunOutcome.of_report(cut).kind == "stopped"
