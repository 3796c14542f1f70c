"""Driver: how a launch ends, in its state, its exit code, its log and MLflow, whatever goes wrong in it."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from orchestrator.errors import PreflightError, TooManyFailures
from orchestrator.progress import Progress
from orchestrator.records.folder import RunFolder
from orchestrator.records.leases.lease import Lease, acquire
from orchestrator.records.stop_request import request_stop
from orchestrator.records.types import BaseFacts, DataFacts, SweepState, TrialRecord
from orchestrator.results.rows import ObjectiveResult, SweepResult
from orchestrator.run import driver as module
from orchestrator.run import without_ray
from orchestrator.run.driver import CANCELLED, Driver, Launch
from orchestrator.run.execution import Dispatcher
from orchestrator.run.outcome import RunOutcome
from orchestrator.run.prepare import Prepared
from orchestrator.search.sources import ListSource
from orchestrator.spec.checks import load_spec
from tests.command import SMOKE
from tests.orchestrator.run.test_recorder import left_checkpoint
from tests.trainables.world import shared

Ends = Callable[["Sweep", Dispatcher, str], None]


def finishes(own: Sweep, dispatcher: Dispatcher, trial_id: str) -> None:
    last = left_checkpoint(own.folder, trial_id.replace("/", "-"), finished=True)
    dispatcher.recorder.on_checkpoint(trial_id, last)
    dispatcher.end(trial_id, RunOutcome("finished", score=0.5))


def fails(_: Sweep, dispatcher: Dispatcher, trial_id: str) -> None:
    dispatcher.end(trial_id, RunOutcome("failed", f"ValueError: {trial_id[-1]}"))


@dataclass
class Sweep:
    """A sweep of eight trials without data, models or MLflow; ``ends`` is how a trial of it ends."""

    folder: RunFolder
    lease: Lease
    tracker: Any
    ends: Ends = finishes
    shared: Any = field(default_factory=shared)  # as an executor
    stream: io.StringIO = field(default_factory=io.StringIO)

    def driver(self, state: SweepState | None = None) -> Driver:
        data: Any = SimpleNamespace(digests=dict.fromkeys(("train", "feedback", "select"), "sha256:0"))
        spec = load_spec(SMOKE, ["search.num_trials=8", "search.max_failed=0.25"])
        launch = Launch(
            spec, self.folder, data, "sqlite:///x", Progress(stream=self.stream), self.lease, None
        )
        return Driver(launch, state or SweepState("smoke", "1" * 16))

    @property
    def ended(self) -> tuple[str, dict[str, str]]:
        """Status and tags of the sweep's run in MLflow."""
        call = self.tracker.finish_sweep.call_args
        return call.args[0], call.args[3]

    # As PendingRuns.
    num_trials, max_failed = 8, 2

    def search(self, may_begin: Callable[[], bool]) -> tuple[ListSource, int, int]:
        records = {r.trial_id: r for r in self.folder.load_trials()}
        fresh = [TrialRecord(f"o/trial-{k:03d}", "o", "trial", k, 0) for k in range(8)]
        left = [records.get(r.trial_id, r) for r in fresh]
        left = [r for r in left if not r.is_done]
        source = ListSource(left)
        begun, source.next = source.next, lambda: begun() if may_begin() else None  # type: ignore[method-assign]
        return source, 8, 8 - len(left)

    def replicates(self) -> tuple[ListSource, int, int]:
        return ListSource([]), 0, 0

    def baselines(self, rungs: list[str]) -> tuple[list[Any], int]:
        return [], 0

    # As an executor.
    def tasks(self, *_: Any) -> None:
        pytest.fail("`prepare_heads` is another one here")

    def exclusive(self) -> None:
        return None

    def run(self, dispatcher: Dispatcher) -> None:
        while (assignment := dispatcher.next()) is not None:
            self.ends(self, dispatcher, assignment["trial_id"])

    def fit(self, _: Any) -> Iterator[Any]:
        return iter(())


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    folder, tracker = RunFolder.local(tmp_path, "smoke"), MagicMock(experiment_id="7")
    folder.create()
    tracker.open_sweep.return_value, tracker.open_trial.return_value, tracker.close.return_value = "p", "r", 0
    facts = Prepared(MagicMock(), {}, {}, BaseFacts("sha256:1", 9.0))
    monkeypatch.setattr(Prepared, "facts", DataFacts(["a"], [1], {}, 1))
    monkeypatch.setattr(module, "Tracker", lambda *_: tracker)
    monkeypatch.setattr(module, "prepare_base", lambda *_: facts)
    monkeypatch.setattr(
        module,
        "prepare_heads",
        lambda *_: replace(facts, bases={"o": "a base"}, base=replace(facts.base, heads_cost_s=2.0)),
    )
    monkeypatch.setattr(module, "shared_by_runs", lambda *_: shared())
    monkeypatch.setattr(module, "environment", lambda _: None)
    result = SweepResult(objectives={"min_recall": ObjectiveResult("min_recall", feasible=False)})
    monkeypatch.setattr(module, "judged", lambda *_: result)
    with acquire(folder) as lease:
        made = Sweep(folder, lease, tracker)
        monkeypatch.setattr(module, "PendingRuns", lambda *_: made)
        monkeypatch.setattr(without_ray, "InProcessExecutor", lambda *_: made)
        yield made


def test_without_a_feasible_trial_a_sweep_is_finished_with_6(sweep: Sweep) -> None:
    (sweep.folder.ray_path / "000").mkdir(parents=True)
    assert sweep.driver().run() == 6
    state = sweep.folder.load_state()
    assert (state.state, state.exit_code, state.planned_runs) == ("finished", 6, 8)
    # Its records here are of another objective; what was nearest is that of results/infeasible.py.
    assert state.problem == "no feasible trial for min_recall: no trial finished"
    assert (state.parent_run_id, state.experiment_id) == ("p", "7")
    assert sweep.ended[0] == "FINISHED"
    assert sweep.folder.results_path.is_file()
    assert not sweep.folder.ray_path.exists()  # no run of it resumes


def test_the_heads_complete_what_the_runs_share(sweep: Sweep) -> None:
    sweep.driver().run()
    assert sweep.shared.bases == {"o": "a base"}
    assert sweep.folder.load_state().base == BaseFacts("sha256:1", 9.0, heads_cost_s=2.0)


def test_a_base_model_that_is_read_again_keeps_its_seconds(sweep: Sweep) -> None:
    known = BaseFacts("sha256:1", 77.0, heads_cost_s=5.0)
    sweep.driver(SweepState("smoke", "1" * 16, base=known)).run()
    assert sweep.folder.load_state().base == replace(known, heads_cost_s=2.0)


def test_a_drain_while_the_heads_are_fitted_stops_the_sweep(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process at once: nothing there looks for a drain."""

    def drains(*_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("fitted to the end")

    monkeypatch.setattr(module, "prepare_heads", drains)
    assert sweep.driver().run() == 143
    assert sweep.folder.load_state().state == "stopped"


def test_a_stored_result_is_sent_again_and_not_judged_again(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.driver().run()
    stored, state = sweep.folder.results_path.read_bytes(), sweep.folder.load_state()
    monkeypatch.setattr(module, "judged", lambda *_: pytest.fail("judged again"))
    sweep.tracker.reset_mock()
    assert sweep.driver(state).run() == 6
    assert sweep.folder.results_path.read_bytes() == stored
    assert sweep.ended[0] == "FINISHED"


def test_too_many_failures_end_a_sweep_for_good(sweep: Sweep) -> None:
    sweep.ends = fails
    with pytest.raises(TooManyFailures) as error:
        sweep.driver().run()
    reasons = "ValueError: 0; ValueError: 1; ValueError: 2"
    assert str(error.value) == f"smoke: 3 of 8 trials failed, search.max_failed allows 25 %: {reasons}"
    state = sweep.folder.load_state()
    assert (state.state, state.exit_code, state.ended is not None) == ("failed", 5, True)
    assert sweep.ended == ("FAILED", {"selmix.state": "failed"})
    # Launched again it sends to MLflow what did not arrive, and runs nothing.
    sweep.tracker.reset_mock()
    assert sweep.driver(state).run() == 5
    assert {call.args[1] for call in sweep.tracker.finish_trial.call_args_list} == {"FAILED"}
    assert sweep.tracker.finish_trial.call_count == 3
    assert len(sweep.folder.load_trials()) == 3


def test_what_a_killed_driver_did_not_send_is_replayed_and_runs_of_it_are_reaped_first(sweep: Sweep) -> None:
    for number, state in enumerate(("FINISHED", "RUNNING", "FAILED")):
        sweep.folder.save_trial(TrialRecord(f"o/trial-{number:03d}", "o", "trial", number, 0, state=state))  # type: ignore[arg-type]
    sweep.folder.save_trial(TrialRecord("o/baseline/b", "o", "baseline", 0, 0, state="FINISHED"))
    sweep.driver().run()
    names = [call[0] for call in sweep.tracker.method_calls]
    replayed = [call.args[0] for call in sweep.tracker.finish_trial.call_args_list][:3]
    assert names.index("open_sweep") < names.index("reap") < names.index("open_trial")
    assert replayed == ["o/trial-000", "o/trial-002", "o/baseline/b"]


@pytest.mark.parametrize("ours", [True, False])
def test_an_error_stops_a_sweep_with_its_reason(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    error = PreflightError("disk full; free some") if ours else ZeroDivisionError()

    def prepare_base(*_: Any) -> None:
        raise error

    monkeypatch.setattr(module, "prepare_base", prepare_base)
    with pytest.raises(type(error)):
        sweep.driver().run()
    state = sweep.folder.load_state()
    assert (state.state, state.exit_code, state.ended) == ("stopped", None, None)
    assert state.problem == ("disk full; free some" if ours else "ZeroDivisionError()")
    assert sweep.ended == ("KILLED", {"selmix.state": "stopped"})
    # Our errors explain themselves.
    assert ("Traceback" in sweep.folder.log_path.read_text()) == (not ours)


def test_what_breaks_while_it_drains_is_no_error(sweep: Sweep) -> None:
    """After a signal to the whole process group Ray ends under the driver, and raises."""

    def breaks(*_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise ConnectionError("Ray is gone")

    sweep.ends = breaks
    assert sweep.driver().run() == 143
    state = sweep.folder.load_state()
    assert (state.state, state.problem) == ("stopped", None)
    assert [r.state for r in sweep.folder.load_trials()] == ["INTERRUPTED"]


def test_a_drain_between_two_runs_keeps_the_first(sweep: Sweep) -> None:
    def drains(own: Sweep, dispatcher: Dispatcher, trial_id: str) -> None:
        finishes(own, dispatcher, trial_id)
        signal.raise_signal(signal.SIGTERM)

    sweep.ends = drains
    assert sweep.driver().run() == 143
    assert [r.state for r in sweep.folder.load_trials()] == ["FINISHED"]
    assert not sweep.folder.results_path.exists()


def test_a_request_to_cancel_ends_the_sweep_for_good(sweep: Sweep) -> None:
    def cancels(own: Sweep, *_: Any) -> None:
        request_stop(own.folder, own.lease.holder, cancel=True)
        signal.raise_signal(signal.SIGTERM)

    sweep.ends = cancels
    sweep.driver().run()
    state = sweep.folder.load_state()
    assert (state.state, state.cancelled, state.problem, state.exit_code) == (
        "stopped",
        True,
        CANCELLED,
        None,
    )
    assert state.ended is not None
    assert {r.state for r in sweep.folder.load_trials()} == {"KILLED"}


def test_a_record_with_gaps_is_not_judged(sweep: Sweep) -> None:
    def loses_its_record(own: Sweep, dispatcher: Dispatcher, trial_id: str) -> None:
        finishes(own, dispatcher, trial_id)
        dispatcher.recorder.on_round("o/trial-999", {"cost_s": 0.0, "row": None})

    sweep.ends = loses_its_record
    with pytest.raises(
        RuntimeError, match=r"smoke: every run must be on record, got: on_round of o/trial-999"
    ):
        sweep.driver().run()
    assert "warning: on_round of o/trial-999: KeyError" in sweep.stream.getvalue()
    assert not sweep.folder.results_path.exists()


def test_writes_that_did_not_reach_mlflow_are_counted_for_the_next_launch(sweep: Sweep) -> None:
    sweep.tracker.close.return_value = 3
    sweep.driver().run()
    assert sweep.folder.load_state().unsent == 3
    assert "warning: 3 writes did not reach MLflow; launch again when it is back" in sweep.stream.getvalue()


def test_a_driver_that_hangs_leaves_with_records_and_lease_in_order(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: dict[str, Any] = {}
    gone = threading.Event()

    def leave(code: int) -> None:
        """As os._exit, which nothing comes after."""
        left["code"], left["state"] = code, sweep.folder.load_state().state
        left["runs"] = [record.state for record in sweep.folder.load_trials()]
        left["holder"] = sweep.folder.lease.holder()
        gone.set()

    def hangs(*_: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        assert gone.wait(20)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr("orchestrator.run.drain.OVERDUE_S", 0.0)
    sweep.ends = hangs
    sweep.driver().run()
    assert left == {"code": 130, "state": "stopped", "runs": ["INTERRUPTED"], "holder": None}
