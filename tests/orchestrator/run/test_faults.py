"""What becomes of a run that breaks off: lost with its worker, out of memory, or failed by itself."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast
from unittest.mock import MagicMock

import pytest
import torch
from ray import cloudpickle
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError
from ray.tune.search import Searcher

from orchestrator.cluster.capacity import Machine, without_neighbours
from orchestrator.progress import Progress
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import TrialRecord
from orchestrator.run.faults import Failure, Fault
from orchestrator.run.recorder import TrialBook
from orchestrator.run.tune import MOST_LOST, BookCallback, ListSource, RunSearcher
from orchestrator.spec.sections import ResourceSection
from trainables.ranks import RankFailed, RankLost
from trainables.shared import FAKE_GPUS, device_of, keep_to_share

TAKES = {"cpu": 1.0, "gpu": 1.0}


def raised(cause: Exception) -> RayTaskError:
    """As a worker's exception reaches the driver."""
    error = RayTaskError("step", f"Traceback\n{type(cause).__name__}: {cause}", cause)
    as_cause: RayTaskError = error.as_instanceof_cause()
    return as_cause


@pytest.mark.parametrize(
    ("error", "fault", "text"),
    [
        (raised(ValueError("too hot")), Fault.RAISED, "ValueError: too hot"),
        (
            raised(torch.OutOfMemoryError("CUDA out of memory. Tried")),
            Fault.MEMORY,
            "OutOfMemoryError: CUDA out",
        ),
        (raised(RuntimeError("CUDA error: out of memory")), Fault.MEMORY, "RuntimeError: CUDA error"),
        (raised(MemoryError()), Fault.MEMORY, "MemoryError"),
        (raised(RankFailed("worker 1 of 2: OutOfMemoryError: CUDA")), Fault.MEMORY, "RankFailed: worker 1"),
        (raised(RankFailed("worker 1 of 2: ValueError: no")), Fault.RAISED, "RankFailed: worker 1"),
        (raised(RankLost("worker 1 of 2 died: its process")), Fault.LOST, "RankLost: worker 1 of 2 died"),
        (OutOfMemoryError("node running low on memory"), Fault.MEMORY, "OutOfMemoryError"),
        (
            ActorDiedError(RayTaskError("__init__", "ValueError: no start", ValueError("no start"))),
            Fault.RAISED,
            "ActorDiedError",
        ),
        (ActorDiedError(), Fault.LOST, "the worker process died"),
        (NodeDiedError("The actor died because its node has died."), Fault.LOST, "its node died"),
        (WorkerCrashedError(), Fault.LOST, "the worker process died"),
        (None, Fault.LOST, "the worker process died"),
    ],
)
def test_whose_fault_it_was(error: Exception | None, fault: Fault, text: str) -> None:
    failure = Failure.of(error)
    assert failure.fault is fault
    assert failure.text.startswith(text)


def test_what_tune_keeps_of_a_trial(tmp_path: Path) -> None:
    trial = MagicMock(pickled_error_file=str(tmp_path / "error.pkl"))
    trial.get_error.return_value = RuntimeError("copied later")
    assert Failure.of_trial(trial).text == "RuntimeError: copied later"
    (tmp_path / "error.pkl").write_bytes(cloudpickle.dumps(ActorDiedError()))
    assert Failure.of_trial(trial) == Failure(Fault.LOST, "the worker process died", str(ActorDiedError()))
    (tmp_path / "error.pkl").write_bytes(b"not a pickle")
    assert Failure.of_trial(trial).fault is Fault.RAISED


class Sweep:
    """A searcher over one replicate, with its book on disk."""

    def __init__(self, home: Path, alone: dict[str, float] | None = None) -> None:
        tracker, self.told = MagicMock(), io.StringIO()
        tracker.open_trial.return_value = "1"
        self.folder = RunFolder(home, "s")
        self.folder.create()
        self.record = TrialRecord("o/trial-000/seed-1", "o", "replicate", 0, seed=1)
        self.book = TrialBook(self.folder, tracker, Progress(quiet=True, stream=self.told), {}, {})
        self.draining = False
        self.searcher = RunSearcher(
            ListSource([self.record]), self.book, lambda: self.draining, lambda: 2, lambda: alone
        )
        self.callback = BookCallback(self.book, self.searcher)
        self.started = 0

    def start(self) -> Any:
        self.started += 1
        return self.searcher.suggest(f"tune-{self.started}")

    def fail(self, error: Exception) -> None:
        """As Tune does it: the searcher hears of an error first, the callback knows which."""
        tune_id = f"tune-{self.started}"
        self.searcher.on_trial_complete(tune_id, error=True)
        trial = MagicMock(
            trial_id=tune_id, config={"trial_id": self.record.trial_id}, pickled_error_file=None
        )
        trial.get_error.return_value = error
        self.callback.on_trial_error(1, [], trial)
        assert self.book.problems == []

    @property
    def stored(self) -> TrialRecord:
        return self.folder.load_trial(self.record.trial_id)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


def test_a_run_whose_node_died_goes_on(sweep: Sweep) -> None:
    assert sweep.start()["trial_id"] == sweep.record.trial_id
    assert sweep.searcher.suggest("tune-9") is None  # not over: the one that runs may come back
    sweep.fail(NodeDiedError("its node has died"))
    assert (sweep.stored.state, sweep.stored.losses, sweep.stored.alone) == ("INTERRUPTED", 1, False)
    assert "its node died; it goes on from its beginning" in sweep.told.getvalue()
    again = sweep.start()
    assert (again["trial_id"], again["takes"]) == (sweep.record.trial_id, None)
    sweep.searcher.on_trial_complete(
        "tune-2", {"finished": True, "failed": False, "best/score": 1.0, "best/violation": 0}
    )
    assert sweep.start() == Searcher.FINISHED


def test_a_run_that_is_lost_again_and_again_fails(sweep: Sweep) -> None:
    for _ in range(MOST_LOST):
        assert sweep.stored.state != "FAILED" if sweep.started else True
        assert sweep.start() is not None
        sweep.fail(ActorDiedError())
    assert (sweep.stored.state, sweep.stored.losses) == ("FAILED", MOST_LOST - 1)
    assert sweep.start() == Searcher.FINISHED


def test_a_checkpoint_in_between_begins_the_count_anew(sweep: Sweep, tmp_path: Path) -> None:
    for number in range(2 * MOST_LOST):
        assert sweep.start()["trial_id"] == sweep.record.trial_id
        checkpoint = sweep.folder.ray_path / "000" / f"checkpoint_{number}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "trial.json").write_text('{"finished": false, "cost_s": 1.0}')
        sweep.book.on_checkpoint(sweep.record.trial_id, str(checkpoint))
        sweep.fail(ActorDiedError())
        assert sweep.stored.state == "INTERRUPTED"
    resumed = sweep.start()["resume_from"]
    assert resumed.endswith(f"checkpoint_{2 * MOST_LOST - 1}")
    assert sweep.stored.losses == 2 * MOST_LOST


def test_a_run_out_of_memory_is_tried_once_alone(tmp_path: Path) -> None:
    sweep, short = Sweep(tmp_path, TAKES), torch.OutOfMemoryError("CUDA out of memory")
    assert sweep.start()["takes"] is None
    sweep.fail(raised(short))
    assert (sweep.stored.state, sweep.stored.alone) == ("INTERRUPTED", True)
    assert sweep.start()["takes"] == TAKES
    sweep.fail(raised(short))
    assert (sweep.stored.state, sweep.stored.losses) == ("FAILED", 1)
    assert "out of memory" in str(sweep.stored.error)


@pytest.mark.parametrize("error", [raised(MemoryError("no")), raised(ValueError("no"))])
def test_what_cannot_be_helped_fails_at_once(sweep: Sweep, error: Exception) -> None:
    sweep.start()
    sweep.fail(error)
    assert (sweep.stored.state, sweep.stored.losses) == ("FAILED", 0)


def test_while_it_drains_nobody_failed(sweep: Sweep) -> None:
    sweep.start()
    sweep.draining = True
    sweep.fail(ActorDiedError())
    assert sweep.stored.state == "RUNNING"  # the drain says INTERRUPTED
    assert sweep.start() == Searcher.FINISHED


def test_a_worker_that_dies_after_its_last_checkpoint_takes_nothing_with_it(sweep: Sweep) -> None:
    sweep.start()
    sweep.record.state = "FINISHED"  # the book had its outcome
    sweep.book._live.pop(sweep.record.trial_id)
    sweep.fail(NodeDiedError("its node has died"))
    assert (sweep.record.state, sweep.record.losses) == ("FINISHED", 0)
    assert sweep.start() == Searcher.FINISHED


def test_a_copy_of_the_searcher_is_inert(sweep: Sweep) -> None:
    copy = cast(RunSearcher, cloudpickle.loads(cloudpickle.dumps(sweep.searcher)))
    assert copy.suggest("x") == Searcher.FINISHED
    copy.on_failure("x", Failure(Fault.LOST, ""))


@pytest.mark.parametrize(
    ("asked", "machines", "cpu", "gpu"),
    [
        ({"gpu": 0.25}, [Machine(8, 2)], 1, 1),
        ({"gpu": 0.25, "max_gpus": 0.5}, [Machine(8, 2)], None, None),
        ({"gpu": 0.25, "workers": 2}, [Machine(8, 2)], 1, 1),
        ({"gpu": 0.25, "workers": 2}, [Machine(8, 1)], None, None),
        ({"gpu": 1}, [Machine(8, 2)], None, None),
        ({}, [Machine(2, 0), Machine(8, 0)], 8, 0),
        ({"cpu": 8}, [Machine(8, 0)], None, None),
        ({"workers": 2}, [Machine(8, 0)], 4, 0),
        ({"max_cpus": 3}, [Machine(8, 0)], 3, 0),
        ({}, [], None, None),
    ],
)
def test_what_a_run_without_neighbours_takes(
    asked: dict[str, Any], machines: list[Machine], cpu: int | None, gpu: float | None
) -> None:
    wider = without_neighbours(ResourceSection(**asked), machines)
    assert (wider and wider.cpu, wider and wider.gpu) == (cpu, gpu)


def test_a_share_of_a_gpu_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", told.append)
    for gpu in (0, 0.25, 1, 2):
        keep_to_share(gpu)
    assert told == [0.25, 1.0, 1.0]


def test_a_gpu_that_torch_does_not_see_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv(FAKE_GPUS, raising=False)
    assert device_of(0) == torch.device("cpu")
    with pytest.raises(RuntimeError, match="torch must see the GPU"):
        device_of(0.5)
    monkeypatch.setenv(FAKE_GPUS, "1")
    assert device_of(0.5) == torch.device("cpu")
    keep_to_share(0.5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of(0.5) == torch.device("cuda")
