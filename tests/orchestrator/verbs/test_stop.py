"""`selmix stop --cancel` of a sweep that no driver runs: KILLED everywhere, and never resumed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records.folder import RunFolder
from orchestrator.records.types import SweepState, TrialRecord, TrialState
from orchestrator.search.space import default_point, distributions
from orchestrator.search.study import ObjectiveStudy
from orchestrator.spec.checks import load_spec
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.values import Best
from tests.command import SMOKE, Done, here
from tests.fakes.smoke import mlflow_runs

pytestmark = pytest.mark.filterwarnings("ignore")  # matters of MLflow's, on a store that begins empty

STATES: dict[str, TrialState] = {
    "min_recall/trial-000": "FINISHED", "min_recall/trial-001": "INTERRUPTED", "min_recall/trial-002": "RUNNING",
    "min_recall/trial-000/seed-1": "RUNNING",
}  # fmt: skip


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with the smoke sweep as a driver left it that was killed in its search."""
    runs = tmp_path_factory.mktemp("killed")
    made, spec = RunFolder.local(runs, "smoke"), load_spec(SMOKE)
    made.create()
    made.save_file(SMOKE)
    made.save_spec(spec.resolved())
    tracker = Tracker(f"sqlite:///{runs}/mlflow.db", "smoke", "1" * 16, runs / "artifacts", lambda _: None)
    tracker.open_sweep("smoke", {}, {})
    for name, state in STATES.items():
        kind: Any = "replicate" if "seed" in name else "trial"
        number = int(name.split("/")[1].removeprefix("trial-"))
        record = TrialRecord(name, "min_recall", kind, number, 0, state=state, started_ms=1)
        record.mlflow_run_id = tracker.open_trial(name, name, {"selmix.trial_id": name}, {}, 1, None)
        made.save_trial(record)
    tracker.finish_trial("min_recall/trial-000", "FINISHED", 2, 20, Best(), {}, [])
    tracker.close()
    study = ObjectiveStudy(
        made.journal_path, "min_recall", "random", 0, distributions(spec), default_point(spec)
    )
    for _ in range(3):
        study.ask()
    study.tell(0, 0.5)
    return runs


@pytest.fixture
def folder(killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A copy of it, whose store lies beside it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs = shutil.copytree(killed, tmp_path / "runs")
    made = RunFolder.local(runs, "smoke")
    made.save_state(SweepState("smoke", "1" * 16, tracking_uri=f"sqlite:///{runs}/mlflow.db", planned_runs=8))
    return made


def stop(folder: RunFolder, *flags: str) -> Done:
    return here("stop", "smoke", "--runs", folder.store.root, *flags)


def test_stop_alone_leaves_a_stopped_sweep_to_be_resumed(folder: RunFolder) -> None:
    done = stop(folder)
    assert (done.code, done.err) == (0, "smoke is not running: stopped\n")
    assert not folder.load_state().cancelled
    assert {record.trial_id: record.state for record in folder.load_trials()} == STATES


def test_cancelled_it_is_killed_on_record_in_mlflow_and_in_its_study(folder: RunFolder) -> None:
    done = stop(folder, "--cancel")
    assert (done.code, done.err) == (0, "smoke is cancelled for good\n")
    records = {record.trial_id: record for record in folder.load_trials()}
    expected = {name: "FINISHED" if state == "FINISHED" else "KILLED" for name, state in STATES.items()}
    assert {name: record.state for name, record in records.items()} == expected
    assert all(record.ended_ms for record in records.values() if record.state == "KILLED")
    runs = {run.data.tags.get("selmix.trial_id", "sweep"): run for run in mlflow_runs(folder.store.root)}
    assert {name: run.info.status for name, run in runs.items()} == expected | {"sweep": "KILLED"}
    assert {name: run.info.run_id for name, run in runs.items() if name != "sweep"} == {
        name: record.mlflow_run_id for name, record in records.items()
    }
    assert runs["sweep"].data.tags["selmix.state"] == "stopped"
    spec = load_spec(SMOKE)
    study = ObjectiveStudy(
        folder.journal_path, "min_recall", "random", 0, distributions(spec), default_point(spec)
    )
    assert [trial.state.name for trial in study.trials()] == ["COMPLETE", "FAIL", "FAIL"]


def test_cancelled_it_says_so_and_is_never_resumed(folder: RunFolder) -> None:
    stop(folder, "--cancel")
    again = here("launch", SMOKE, "--in-process", "--runs", folder.store.root)
    assert again.code == 2
    assert "this sweep was cancelled for good; launch it under a new name (name=NEW)" in again.err
    shown = here("show", "smoke", "--runs", folder.store.root, "--json").document
    assert (shown["state"], shown["cancelled"]) == ("stopped", True)
    assert shown["problem"] == "cancelled for good by selmix stop --cancel"
    text = here("show", "smoke", "--runs", folder.store.root).out
    assert "cancelled for good by selmix stop --cancel" in text
    assert "launch it under a new name (name=NEW)" in text


def test_cancelled_twice_it_is_as_cancelled_once(folder: RunFolder) -> None:
    stop(folder, "--cancel")
    before = folder.load_trials()
    assert stop(folder, "--cancel").code == 0
    assert folder.load_trials() == before
    assert {run.info.status for run in mlflow_runs(folder.store.root)} == {"FINISHED", "KILLED"}


@pytest.mark.parametrize("state", ["finished", "failed"])
def test_what_has_ended_is_not_cancelled(folder: RunFolder, state: Any) -> None:
    written = folder.load_state()
    written.state = state
    folder.save_state(written)
    done = stop(folder, "--cancel")
    assert (done.code, done.err) == (0, f"smoke is not running: {state}\n")
    assert not folder.load_state().cancelled


def test_it_is_cancelled_in_the_store_that_it_began_with(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = folder.store.root / "other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    done = stop(folder, "--cancel")
    assert done.code == 4
    assert (
        f"must be cancelled with the MLflow store that it began with, sqlite:///{folder.store.root}"
        in done.err
    )
    assert not other.exists()
    assert not folder.load_state().cancelled
