"""Recorder: a run is on record, in our files and in MLflow, from its opening to its end, whatever is killed between."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from orchestrator.progress import Progress
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import Figure, TrialRecord
from orchestrator.run import recorder as module
from orchestrator.run.outcome import RunOutcome
from orchestrator.run.recorder import OUTCOME_FILES, Recorder, _within_limit
from orchestrator.tracking.values import MAX_SCALARS, Best

TRIAL = "o/trial-000"
LOST = RunOutcome("worker_lost", "its node died", "Traceback\nNodeDied: gone")


def left_checkpoint(folder: RunFolder, name: str, finished: bool, **figures: Any) -> str:
    """Address of a checkpoint as a worker leaves it."""
    home = folder.ray_path / "000" / name
    home.mkdir(parents=True)
    if finished:
        for file in OUTCOME_FILES:
            (home / file).write_text(file)
        outcome = {
            "select": {"m": {"value": 0.5, "low": 0.25, "high": 0.75}}, "weights_digest": "sha256:1", "round": 2,
            "steps": 40, "score": 0.5, "feasible": True, "stop_reason": "steps", "failed": False,
        }  # fmt: skip
        (home / "figures.json").write_text(json.dumps(outcome | figures))
    (home / "trial.json").write_text(json.dumps({"finished": finished, "cost_s": 1.0}))
    return folder.address_of(home)


class Sweep:
    """A recorder with its records on disk, an MLflow that notes what it is sent, and a clock that stands still."""

    def __init__(self, home: Path) -> None:
        self.folder, self.stream, self.tracker = RunFolder.local(home, "s"), io.StringIO(), MagicMock()
        self.tracker.open_trial.return_value = "run-1"
        self.folder.create()
        self.recorder = self.launched()

    def launched(self) -> Recorder:
        """As the next launch has it: nothing is remembered but the records."""
        progress = Progress(stream=self.stream)
        return Recorder(self.folder, self.tracker, progress, {"t": "tag"}, {"data.name": "d"})

    def opened(self, trial_id: str = TRIAL, **known: Any) -> TrialRecord:
        kind = "replicate" if "seed-" in trial_id else "trial"
        return self.recorder.open(TrialRecord(trial_id, "o", kind, 0, seed=0, **known))

    def stored(self, trial_id: str = TRIAL) -> TrialRecord:
        return self.folder.load_trial(trial_id)

    def checkpoint(self, name: str, finished: bool = False, **figures: Any) -> str:
        return left_checkpoint(self.folder, name, finished, **figures)

    def ended(self) -> tuple[Any, ...]:
        """Arguments of the last end of a run that MLflow was sent."""
        return tuple(self.tracker.finish_trial.call_args.args)

    @property
    def log(self) -> str:
        return self.folder.trial_log_path(TRIAL).read_text()


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setattr(module, "now_ms", lambda: 10_000)
    return Sweep(tmp_path)


def row(number: int) -> dict[str, Any]:
    return {"round": number, "steps": 20 * number, "time_ms": 5, "score": 0.5, "feasible": True,
            "select": {"m": 0.5}, "scalars": {"loss": 1.0}}  # fmt: skip


def report(number: int | None, cost_s: float = 1.0) -> dict[str, Any]:
    return {"cost_s": cost_s, "row": None if number is None else row(number)}


# -- it begins ------------------------------------------------------------------------------------------------


def test_a_run_is_on_record_before_mlflow_makes_its_run(sweep: Sweep) -> None:
    """A driver that is killed in between finds the run by its tag; with the other order there would be two."""
    seen: list[tuple[str, str | None]] = []

    def open_trial(*_: Any) -> str:
        seen.append((sweep.stored().state, sweep.stored().mlflow_run_id))
        return "run-7"

    sweep.tracker.open_trial.side_effect = open_trial
    sweep.opened()
    assert seen == [("RUNNING", None)]
    assert sweep.stored().mlflow_run_id == "run-7"


def test_a_run_that_resumes_begins_anew_but_for_its_start_and_its_rounds(sweep: Sweep) -> None:
    for number in (0, 1):
        sweep.folder.append_round(TRIAL, row(number))
    ended = {"error": "its node died", "stop_reason": "steps", "ended_ms": 9, "state": "INTERRUPTED"}
    sweep.opened(started_ms=7, checkpoint="ray/000/a", **ended)
    stored = sweep.stored()
    assert (stored.state, stored.error, stored.stop_reason, stored.ended_ms) == ("RUNNING", None, None, None)
    assert (stored.started_ms, stored.checkpoint) == (7, "ray/000/a")
    assert "resumes from ray/000/a: seed 0" in sweep.log
    # MLflow gets all rounds again, since a killed driver may not have sent the last ones.
    assert [call.args[1] for call in sweep.tracker.log_round.call_args_list] == [0, 20]
    for number in (1, 2):
        sweep.recorder.on_round(TRIAL, report(number))
    assert [r["round"] for r in sweep.folder.rounds(TRIAL)] == [0, 1, 2]
    assert sweep.tracker.log_round.call_count == 3


def test_tags_and_params_name_what_a_run_is(sweep: Sweep) -> None:
    plain = TrialRecord(TRIAL, "o", "trial", 0, seed=3, config={"lr": 0.1}, config_hash="abc")
    tags = sweep.recorder.run_tags(plain)
    assert tags == {
        "t": "tag", "selmix.trial_id": TRIAL, "selmix.kind": "trial", "selmix.objective": "o", "selmix.seed": "3",
        "selmix.config_hash": "abc", "selmix.state": "RUNNING",
    }  # fmt: skip
    assert sweep.recorder.run_params(plain) == {"data.name": "d", "objective": "o", "seed": 3, "lr": 0.1}
    plain.replicate_of, plain.arm = "o/trial-000", "policy=uniform"
    plain.config = {"gain_formula": "released_code", "second": "oracle"}
    more = {key: text for key, text in sweep.recorder.run_tags(plain).items() if key not in tags}
    assert more.pop("selmix.oracle") != "oracle"  # its meaning says more than its value
    assert more == {
        "selmix.replicate_of": "o/trial-000", "selmix.arm": "policy=uniform", "selmix.gain_formula": "released_code",
    }  # fmt: skip


# -- it reports -----------------------------------------------------------------------------------------------


def test_a_round_goes_to_the_file_and_to_mlflow_once(sweep: Sweep) -> None:
    record = sweep.opened()
    for cost_s in (1.0, 2.0):
        sweep.recorder.on_round(TRIAL, report(0, cost_s))
    sweep.recorder.on_round(TRIAL, report(None, 3.0))  # a value that is not finite ended the run
    assert record.cost_s == 3.0
    assert sweep.folder.rounds(TRIAL) == [row(0)]
    values = {"select/m": 0.5, "round": 0.0, "score": 0.5, "loss": 1.0}
    sweep.tracker.log_round.assert_called_once_with(TRIAL, 0, 5, values)
    assert "round 0, 0 steps, score 50.00" in sweep.log
    # Of a cost in its unit, also in the line of the end.
    sweep.recorder = Recorder(
        sweep.folder, sweep.tracker, Progress(stream=sweep.stream), {}, {}, {"o": "cost"}
    )
    sweep.opened()
    sweep.recorder.on_round(TRIAL, {"row": row(1), "cost_s": 1.0})
    assert "round 1, 20 steps, score 0.5000" in sweep.log


def test_at_every_instant_the_checkpoint_on_record_exists(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.opened()
    first, second = (sweep.checkpoint(name) for name in "ab")
    sweep.recorder.on_checkpoint(TRIAL, first)
    named: list[str | None] = []
    drop = RunFolder.drop

    def dropped(folder: RunFolder, relative: str) -> None:
        named.append(sweep.stored().checkpoint)
        drop(folder, relative)

    monkeypatch.setattr(RunFolder, "drop", dropped)
    for address in (second, second):  # the same one twice does not remove itself
        sweep.recorder.on_checkpoint(TRIAL, address)
    assert named == ["ray/000/b"]
    assert not Path(first).exists()
    assert sweep.folder.has_checkpoint("ray/000/b")
    assert sweep.recorder.problems == []


def test_the_last_checkpoint_finishes_a_run(sweep: Sweep) -> None:
    sweep.opened()
    sweep.recorder.on_checkpoint(TRIAL, sweep.checkpoint("a"))
    sweep.recorder.on_checkpoint(TRIAL, last := sweep.checkpoint("b", finished=True))
    stored = sweep.stored()
    assert (stored.state, stored.error, stored.checkpoint, stored.ended_ms) == (
        "FINISHED",
        None,
        None,
        10_000,
    )
    assert (stored.round, stored.steps, stored.score, stored.stop_reason) == (2, 40, 0.5, "steps")
    assert stored.select == {"m": Figure(0.5, 0.25, 0.75)}
    home = sweep.folder.trial_folder(TRIAL)
    assert [(home / name).read_text() for name in OUTCOME_FILES] == list(OUTCOME_FILES)
    assert not Path(last).exists()
    tags = {"selmix.state": "FINISHED", "selmix.feasible": "true", "selmix.stop_reason": "steps"}
    table = [home / "rounds.parquet"]
    best = Best(stored.select, None, stored.score)
    assert sweep.ended() == (TRIAL, "FINISHED", 10_000, 40, best, tags, table)
    # It is over: what arrives late changes nothing, and is no problem.
    sweep.recorder.on_checkpoint(TRIAL, sweep.checkpoint("c"))
    sweep.recorder.on_drain()
    assert (sweep.stored(), sweep.recorder.problems) == (stored, [])


def test_a_run_that_was_not_finite_has_failed_with_its_reason(sweep: Sweep) -> None:
    sweep.opened()
    last = sweep.checkpoint("a", finished=True, failed=True, stop_reason="nonfinite:loss")
    sweep.recorder.on_checkpoint(TRIAL, last)
    assert (sweep.stored().state, sweep.stored().error) == ("FAILED", "nonfinite:loss")
    assert sweep.recorder.failed_trials == 1
    assert sweep.ended()[1:5] == (
        "FAILED",
        10_000,
        40,
        Best(),
    )  # metrics would be taken for those of a finished run
    assert "warning: o/trial-000 failed: nonfinite:loss" in sweep.stream.getvalue()


@pytest.mark.parametrize("missing", [*OUTCOME_FILES, "figures.json"])
def test_a_record_that_is_finished_vouches_for_its_files(sweep: Sweep, missing: str) -> None:
    sweep.opened()
    last = Path(sweep.checkpoint("a", finished=True))
    (last / missing).unlink()
    sweep.recorder.on_checkpoint(TRIAL, str(last))
    (problem,) = sweep.recorder.problems
    assert problem.startswith(f"on_checkpoint of {TRIAL}: FileNotFoundError")
    assert sweep.stored().state == "RUNNING"
    assert last.exists()


# -- it ends --------------------------------------------------------------------------------------------------


def test_problems_are_noted_with_method_run_and_place(sweep: Sweep) -> None:
    sweep.recorder.on_round("o/trial-404", report(0))
    sweep.recorder.on_failed("o/trial-405", LOST)
    sweep.recorder.on_interrupted("o/trial-406", LOST)
    assert [problem.partition(" (recorder.py, line ")[0] for problem in sweep.recorder.problems] == [
        "on_round of o/trial-404: KeyError('o/trial-404')", "on_failed of o/trial-405: KeyError('o/trial-405')",
        "on_interrupted of o/trial-406: KeyError('o/trial-406')",
    ]  # fmt: skip
    sweep.opened()
    sweep.tracker.finish_trial.side_effect = OSError("full")
    sweep.recorder.on_drain()  # it is of no single run
    assert sweep.recorder.problems[-1].startswith("on_drain: OSError('full')")


def test_failures_of_trials_count_over_all_launches(sweep: Sweep) -> None:
    for trial_id in (TRIAL, "o/trial-000/seed-1"):
        sweep.opened(trial_id)
        sweep.recorder.on_failed(trial_id, RunOutcome("failed", "no"))
    assert sweep.recorder.failed_trials == 1  # a replicate is no trial of the search
    assert sweep.launched().failed_trials == 1


def test_an_interrupted_run_warns_of_the_work_that_was_lost(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.opened(losses=1, lost_s=2.0)
    monkeypatch.setattr(module, "now_ms", lambda: 13_000)
    sweep.recorder.on_interrupted(TRIAL, LOST)
    stored = sweep.stored()
    assert (stored.state, stored.losses, stored.lost_s) == ("INTERRUPTED", 2, 5.0)
    text = "its node died; it resumes from its beginning; 3 s of work were lost"
    assert f"warning: {TRIAL}: {text}" in sweep.stream.getvalue()
    assert text in sweep.log
    assert "NodeDied: gone" in sweep.log
    sweep.recorder.open(stored)
    sweep.recorder.on_checkpoint(TRIAL, sweep.checkpoint("a"))
    assert sweep.recorder.losses_in_a_row(TRIAL) == 0  # it got somewhere
    stored.alone = True
    sweep.recorder.on_interrupted(TRIAL, LOST)
    assert "it resumes from its last checkpoint, exclusive (nothing runs beside it); 0 s" in sweep.log
    assert sweep.recorder.losses_in_a_row(TRIAL) == 1


def test_a_drain_ends_all_that_is_alive_and_nothing_twice(sweep: Sweep) -> None:
    sweep.opened(checkpoint="ray/000/a")
    sweep.opened("o/trial-001")
    for _ in range(2):
        sweep.recorder.on_drain()
    assert [sweep.stored(name).state for name in (TRIAL, "o/trial-001")] == ["INTERRUPTED"] * 2
    assert sweep.stored().checkpoint == "ray/000/a"
    assert [call.args[:2] for call in sweep.tracker.finish_trial.call_args_list] == [
        (TRIAL, "KILLED"), ("o/trial-001", "KILLED"),
    ]  # fmt: skip


def test_a_cancelled_sweep_kills_what_is_unfinished(sweep: Sweep) -> None:
    states = {
        TRIAL: "RUNNING",
        "o/trial-001": "INTERRUPTED",
        "o/trial-002": "FINISHED",
        "o/trial-003": "FAILED",
    }
    records = [TrialRecord(name, "o", "trial", k, 0, state=s) for k, (name, s) in enumerate(states.items())]  # type: ignore[arg-type]
    records.append(TrialRecord("o/trial-002/seed-1", "o", "replicate", 2, 1, checkpoint="ray/000/a"))
    records.append(TrialRecord("o/arm=1/trial-004", "o", "trial", 4, 0, arm="arm=1"))
    for record in records:
        sweep.folder.save_trial(record)
    assert sweep.recorder.kill_unfinished() == {"o": [0, 1], "o/arm=1": [4]}
    killed = [r for r in sweep.folder.load_trials() if r.state == "KILLED"]
    assert {r.trial_id for r in killed} == {TRIAL, "o/trial-001", "o/trial-002/seed-1", "o/arm=1/trial-004"}
    assert {(r.checkpoint, r.mlflow_run_id, r.ended_ms) for r in killed} == {(None, "run-1", 10_000)}
    # Params of an MLflow run cannot change: they were sent when it was opened.
    assert {str(call.args[3]) for call in sweep.tracker.open_trial.call_args_list} == {"{}"}
    assert sweep.recorder.kill_unfinished() == {}


@pytest.mark.parametrize(("state", "error"), [("FINISHED", None), ("FAILED", "ArithmeticError: singular")])
def test_a_baseline_is_opened_and_ended_at_once(sweep: Sweep, state: Any, error: str | None) -> None:
    baseline = TrialRecord(
        "o/baseline/untouched", "o", "baseline", 0, 0, state=state, error=error, started_ms=4
    )
    sweep.recorder.add(baseline)
    stored = sweep.stored(baseline.trial_id)
    assert (stored.state, stored.error, stored.started_ms) == (state, error, 4)
    assert sweep.ended()[1:3] == (state, 10_000)
    assert list(sweep.ended()[-1]) == []  # it has no table of rounds
    assert sweep.recorder.failed_trials == 0


def test_a_replay_sends_rounds_and_end_and_changes_no_record(sweep: Sweep) -> None:
    record = TrialRecord(TRIAL, "o", "trial", 0, 0, state="FINISHED", steps=20, ended_ms=8, feasible=False)
    sweep.folder.save_trial(record)
    sweep.folder.append_round(TRIAL, row(1))
    sweep.recorder.replay(sweep.stored())
    assert [call.args[:3] for call in sweep.tracker.log_round.call_args_list] == [(TRIAL, 20, 5)]
    tags = {"selmix.state": "FINISHED", "selmix.feasible": "false"}
    assert sweep.ended() == (TRIAL, "FINISHED", 8, 20, Best(), tags, [])  # there is no table yet
    assert sweep.stored() == record


def test_of_a_round_with_many_bounds_what_every_sweep_has_comes_first() -> None:
    rates = {f"select/recall/class {k}": 0.5 for k in range(100)}
    multipliers = {f"multiplier/recall/class {k}": 1.0 for k in range(100)}
    common = {"select/min_recall": 0.5, "round": 1.0, "score": 0.5, "loss": 0.1}
    kept = _within_limit(rates | multipliers | common)
    assert common.items() <= kept.items()
    assert len(kept) == MAX_SCALARS
    assert _within_limit(common) == common
