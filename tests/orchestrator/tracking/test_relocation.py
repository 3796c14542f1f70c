"""A runs folder that was moved or copied, and one whose name has characters that mean something in an address."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils

from orchestrator.tracking.address import (
    OWN,
    own_address,
    present_address,
    recorded_address,
    sqlite_path,
    tracking_address,
)
from orchestrator.tracking.relocation import relocate
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.values import Best


def silent(text: str) -> None:
    pytest.fail(text)


def swept(runs: Path, marks: dict[str, str]) -> str:
    """A sweep with one artifact in the store of a runs folder; returns the id of its run."""
    runs.mkdir(parents=True, exist_ok=True)
    # MLflow remembers places for as long as the process lives; a launch is a process of its own.
    utils._artifact_repos_cache.clear()
    tracker = Tracker(own_address(runs), "sweep", "1" * 16, runs / "mlartifacts" / "sweep", silent)
    run = tracker.open_sweep("sweep", marks, {})
    note = runs / "note.txt"
    note.write_text(str(marks))
    tracker.finish_sweep("FINISHED", 1, {}, {}, [note])
    assert tracker.close() == 0
    return run


@pytest.mark.parametrize("name", ["plain", "a b%20c#d?e ä"])
def test_a_moved_folder_goes_on_where_it_lies(name: str, tmp_path: Path) -> None:
    before, after = tmp_path / name / "runs", tmp_path / f"moved {name}" / "runs"
    run = swept(before, {"first": "1"})
    assert (before / "mlflow.db").is_file()
    assert (before / "mlartifacts" / "sweep" / run / "artifacts" / "note.txt").is_file()
    after.parent.mkdir()
    shutil.move(before, after)
    assert swept(after, {"second": "2"}) == run
    assert not before.exists()
    assert (after / "mlartifacts" / "sweep" / run / "artifacts" / "note.txt").read_text() == "{'second': '2'}"
    client = MlflowClient(tracking_uri=own_address(after))
    assert Path(client.download_artifacts(run, "note.txt")).read_text() == "{'second': '2'}"


def test_a_copy_leaves_the_original_alone(tmp_path: Path) -> None:
    run = swept(tmp_path / "runs", {"of": "original"})
    shutil.copytree(tmp_path / "runs", tmp_path / "copy")
    swept(tmp_path / "copy", {"of": "copy"})
    artifact = Path("mlartifacts") / "sweep" / run / "artifacts" / "note.txt"
    assert (tmp_path / "runs" / artifact).read_text() == "{'of': 'original'}"
    assert (tmp_path / "copy" / artifact).read_text() == "{'of': 'copy'}"


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    assert relocate("https://host") == 0
    assert relocate(own_address(tmp_path)) == 0  # there is no file yet
    (tmp_path / "mlflow.db").touch()
    assert relocate(own_address(tmp_path)) == 0
    assert relocate(f"sqlite:///{tmp_path}/other.db") == 0
    swept(tmp_path / "runs", {})
    with sqlite3.connect(tmp_path / "runs" / "mlflow.db") as store:
        store.execute(
            "UPDATE experiments SET artifact_location = 's3://bucket/mlartifacts/x' WHERE name = 'sweep'"
        )
    assert relocate(own_address(tmp_path / "runs")) == 0


def test_records_name_the_own_file_without_its_place(tmp_path: Path) -> None:
    own = own_address(tmp_path)
    assert sqlite_path(own_address(tmp_path / "a?b%41")) == tmp_path / "a?b%41" / "mlflow.db"
    assert tracking_address(tmp_path, {}) == own
    assert recorded_address(own, tmp_path) == OWN == "sqlite:///mlflow.db"
    assert present_address(OWN, tmp_path) == own
    # Of an earlier version: its path, which is gone if the folder was moved.
    gone = f"sqlite:///{tmp_path}/gone/mlflow.db"
    assert present_address(gone, tmp_path) == gone
    (tmp_path / "mlflow.db").touch()
    assert present_address(gone, tmp_path) == own
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "mlflow.db").touch()
    assert present_address(gone, tmp_path) == gone
    other = f"sqlite:///{tmp_path}/other.db"
    assert recorded_address(other, tmp_path) == present_address(other, tmp_path) == other
    assert recorded_address("https://a:b@host", tmp_path) == "https://host"


def test_a_run_that_was_deleted_in_the_pages_is_opened_anew(tmp_path: Path) -> None:
    tracker = Tracker(own_address(tmp_path), "sweep", "1" * 16, tmp_path / "mlartifacts" / "sweep", silent)
    tracker.open_sweep("sweep", {}, {})
    first = tracker.open_trial("min_recall/trial-000", "trial-000", {}, {}, 1, None)
    tracker.settle(10)
    client = MlflowClient(tracking_uri=own_address(tmp_path))
    client.delete_run(first)
    again = Tracker(own_address(tmp_path), "sweep", "1" * 16, tmp_path / "mlartifacts" / "sweep", silent)
    again.open_sweep("sweep", {}, {})
    second = again.open_trial("min_recall/trial-000", "trial-000", {}, {}, 1, first)
    assert second not in (None, first)
    again.finish_trial("min_recall/trial-000", "FINISHED", 2, 1, Best(), {}, [])
    assert again.close() == tracker.close() == 0
    assert client.get_run(second).info.status == "FINISHED"
