"""Dispatcher: a run that is interrupted is handed out again, or has failed, whichever executor runs it."""

from __future__ import annotations

import io
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from orchestrator.progress import Progress
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import TrialRecord
from orchestrator.run.execution import MAX_LOSSES, Assignment, Dispatcher, WorkerResources
from orchestrator.run.outcome import RunOutcome
from orchestrator.run.recorder import Recorder
from orchestrator.search.early_stopping import BestSoFar
from orchestrator.search.sources import ListSource
from orchestrator.tracking.values import Best

WHOLE: WorkerResources = {"cpu": 1.0, "gpu": 1.0}
LOST = RunOutcome("worker_lost", "its node died")
SHORT = RunOutcome("out_of_memory", "OutOfMemoryError: CUDA out of memory")
FINISHED = RunOutcome("finished", score=1.0)


class Sweep:
    """A dispatcher of one replicate, with its records on disk."""

    def __init__(self, home: Path, exclusive: WorkerResources | None = None) -> None:
        tracker, self.stream = MagicMock(), io.StringIO()
        tracker.open_trial.return_value = "1"
        self.folder = RunFolder.local(home, "s")
        self.folder.create()
        self.record = TrialRecord("o/trial-000/seed-1", "o", "replicate", 0, seed=1)
        self.recorder = Recorder(self.folder, tracker, Progress(quiet=True, stream=self.stream), {}, {})
        self.draining = False
        self.dispatcher = Dispatcher(
            ListSource([self.record]), self.recorder, lambda: self.draining, lambda: exclusive
        )

    def next(self) -> Assignment:
        assignment = self.dispatcher.next()
        assert assignment is not None
        return assignment

    def end(self, outcome: RunOutcome) -> None:
        self.dispatcher.end(self.record.trial_id, outcome)
        assert self.recorder.problems == []

    @property
    def is_over(self) -> bool:
        return self.dispatcher.next() is None and not self.dispatcher.under_way

    @property
    def stored(self) -> TrialRecord:
        return self.folder.load_trial(self.record.trial_id)


def test_what_follows_is_asked_for_once_when_every_run_has_ended(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    asked: list[bool] = []
    fresh = TrialRecord("o/trial-000/seed-2", "o", "replicate", 0, seed=2)

    def then() -> ListSource:
        asked.append(True)
        return ListSource([fresh])

    sweep.dispatcher = Dispatcher(
        ListSource([sweep.record]), sweep.recorder, lambda: sweep.draining, lambda: None, None, then
    )
    sweep.next()
    # The first may still come back.
    assert sweep.dispatcher.next() is None
    sweep.end(LOST)
    assert (sweep.next()["trial_id"], asked) == (sweep.record.trial_id, [])
    sweep.end(FINISHED)
    assert sweep.next()["trial_id"] == fresh.trial_id
    sweep.dispatcher.end(fresh.trial_id, FINISHED)
    assert sweep.is_over
    assert asked == [True]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


def test_a_run_whose_node_died_resumes(sweep: Sweep) -> None:
    assert sweep.next()["trial_id"] == sweep.record.trial_id
    assert sweep.dispatcher.next() is None
    assert not sweep.is_over  # the one that runs may come back
    sweep.end(LOST)
    assert (sweep.stored.state, sweep.stored.losses, sweep.stored.alone) == ("INTERRUPTED", 1, False)
    assert "its node died; it resumes from its beginning" in sweep.stream.getvalue()
    again = sweep.next()
    assert (again["trial_id"], again["takes"]) == (sweep.record.trial_id, None)
    sweep.end(FINISHED)
    assert sweep.is_over


def test_a_run_that_loses_its_worker_again_and_again_fails(sweep: Sweep) -> None:
    for number in range(MAX_LOSSES):
        assert number == 0 or sweep.stored.state == "INTERRUPTED"
        sweep.next()
        sweep.end(LOST)
    assert (sweep.stored.state, sweep.stored.losses) == ("FAILED", MAX_LOSSES - 1)
    assert sweep.stored.error == "its node died"
    assert sweep.is_over


def test_a_checkpoint_in_between_begins_the_count_anew(sweep: Sweep) -> None:
    for number in range(2 * MAX_LOSSES):
        assert sweep.next()["trial_id"] == sweep.record.trial_id
        checkpoint = sweep.folder.ray_path / "000" / f"checkpoint_{number}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "trial.json").write_text('{"finished": false, "cost_s": 1.0}')
        sweep.recorder.on_checkpoint(sweep.record.trial_id, str(checkpoint.absolute()))
        sweep.end(LOST)
        assert sweep.stored.state == "INTERRUPTED"
    assert str(sweep.next()["resume_from"]).endswith(f"checkpoint_{2 * MAX_LOSSES - 1}")
    assert sweep.stored.losses == 2 * MAX_LOSSES


def test_a_run_out_of_memory_is_tried_once_more_exclusively(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, exclusive=WHOLE)
    assert sweep.next()["takes"] is None
    sweep.end(SHORT)
    assert (sweep.stored.state, sweep.stored.alone) == ("INTERRUPTED", True)
    assert sweep.next()["takes"] == WHOLE
    sweep.end(SHORT)
    assert (sweep.stored.state, sweep.stored.losses) == ("FAILED", 1)
    assert "out of memory" in str(sweep.stored.error)


@pytest.mark.parametrize("outcome", [SHORT, RunOutcome("failed", "ValueError: no")])
def test_what_cannot_be_helped_fails_at_once(sweep: Sweep, outcome: RunOutcome) -> None:
    sweep.next()
    sweep.end(outcome)
    assert (sweep.stored.state, sweep.stored.losses) == ("FAILED", 0)


PRUNED = RunOutcome(
    "pruned", "early stopping (asha) after 40 steps", score=0.5, violation=0.25, round=1, steps=20
)


def test_a_run_that_is_stopped_early_is_pruned_for_good(sweep: Sweep) -> None:
    pruned: list[TrialRecord] = []
    sweep.dispatcher._source.prune = pruned.append  # type: ignore[method-assign]
    sweep.next()
    checkpoint = sweep.folder.ray_path / "000" / "checkpoint_0"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trial.json").write_text('{"finished": false, "cost_s": 1.0}')
    sweep.recorder.on_checkpoint(sweep.record.trial_id, str(checkpoint.absolute()))
    sweep.end(PRUNED)
    stored = sweep.stored
    assert (stored.state, stored.is_done, stored.stop_reason) == ("PRUNED", True, PRUNED.reason)
    assert (stored.round, stored.steps, stored.score, stored.feasible) == (1, 20, 0.5, False)
    assert (stored.checkpoint, stored.select, stored.error, checkpoint.exists()) == (None, {}, None, False)
    assert pruned == [sweep.record]
    assert sweep.is_over
    sweep.end(LOST)  # its actor ends a moment later
    assert sweep.stored == stored
    (end,) = sweep.recorder.tracker.finish_trial.call_args_list  # type: ignore[attr-defined]
    _, status, _, _, best, tags, _ = end.args
    assert (status, best, tags["selmix.state"]) == ("FINISHED", Best(), "PRUNED")
    assert tags["selmix.stop_reason"] == PRUNED.reason


def test_what_judges_may_fail_and_ends_nothing(sweep: Sweep) -> None:
    stopping = MagicMock()
    dispatcher = Dispatcher(ListSource([sweep.record]), sweep.recorder, lambda: False, lambda: None, stopping)
    assert (dispatcher.stops_early, sweep.dispatcher.stops_early) == (True, False)
    reached, name = BestSoFar(20, 0.5), sweep.record.trial_id
    assert not dispatcher.judge(name, reached)  # it has not begun
    stopping.stops.assert_not_called()
    dispatcher.next()
    stopping.stops.return_value = True
    assert dispatcher.judge(name, reached)
    stopping.stops.assert_called_once_with(sweep.record, reached, False)
    stopping.stops.side_effect = ValueError("no")
    assert not dispatcher.judge(name, reached)
    assert sweep.recorder.problems == [f"judging {name}: ValueError('no')"]


def test_while_it_drains_nobody_failed(sweep: Sweep) -> None:
    sweep.next()
    sweep.draining = True
    sweep.end(LOST)
    assert sweep.stored.state == "RUNNING"  # the drain says INTERRUPTED
    assert sweep.is_over


def test_a_worker_that_dies_after_its_last_checkpoint_takes_nothing_with_it(sweep: Sweep) -> None:
    sweep.next()
    sweep.record.state = "FINISHED"  # the recorder had its outcome
    sweep.end(LOST)
    assert (sweep.record.state, sweep.record.losses) == ("FINISHED", 0)
    assert sweep.is_over


def test_a_second_report_of_an_end_changes_nothing(sweep: Sweep) -> None:
    sweep.next()
    sweep.end(RunOutcome("failed", "ValueError: no"))
    sweep.end(LOST)
    assert (sweep.stored.state, sweep.stored.error) == ("FAILED", "ValueError: no")


class BrokenSource(ListSource):
    """Source that raises where it is to learn a result."""

    def tell(self, record: TrialRecord, score: float | None, violation: float) -> None:
        raise OSError("journal is gone")


def test_what_goes_wrong_is_noted_and_raises_nothing(sweep: Sweep) -> None:
    dispatcher = Dispatcher(BrokenSource([sweep.record]), sweep.recorder, lambda: False)
    assert dispatcher.next() is not None
    dispatcher.end(sweep.record.trial_id, FINISHED)
    assert sweep.recorder.problems == [
        "telling the search the result of o/trial-000/seed-1: OSError('journal is gone')"
    ]
