"""Verbs that show, on the command line: `cp`, `ls`, `show`, `logs` and `ui`."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from orchestrator.records.folder import RunFolder
from orchestrator.records.logs import append_log
from orchestrator.records.types import SweepState, TrialRecord
from tests.command import SMOKE, here


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A stopped sweep with a log of its driver, and one of its first trial."""
    made = RunFolder.local(tmp_path / "runs", "s")
    made.create()
    made.save_spec({"objectives": ["min_recall"]})
    made.save_state(SweepState("s", "1" * 16))
    for number in range(2):
        made.save_trial(TrialRecord(f"min_recall/trial-{number:03d}", "min_recall", "trial", number, 0))
    append_log(made, made.log_path, "started")
    append_log(
        made, made.trial_log_path("min_recall/trial-000"), "begins: a line of more than forty columns, whole"
    )
    return made


def test_a_recipe_is_copied_once_and_its_path_printed(tmp_path: Path) -> None:
    done = here("cp", "smoke", "new/folder", cwd=tmp_path)
    assert (done.code, done.out, done.err) == (0, "new/folder/smoke.yaml\n", "")
    assert (tmp_path / "new" / "folder" / "smoke.yaml").read_text() == SMOKE.read_text()
    again = here("cp", "smoke", "new/folder", cwd=tmp_path)
    assert (again.code, again.out) == (2, "")
    assert "new/folder/smoke.yaml: exists; remove it, or copy into another folder" in again.err
    assert here("cp", "smok", cwd=tmp_path).err == (
        "selmix: no recipe 'smok'; did you mean smoke? `selmix ls --recipes` lists them\n"
    )


def test_logs_are_whole_lines_or_a_document(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    where = ("--runs", folder.store.root)
    for name in ("trial-000", "min_recall/trial-000"):
        (line,) = here("logs", "s", name, *where).out.splitlines()
        assert line.endswith("begins: a line of more than forty columns, whole")
    document = here("logs", "s", *where, "--json").document
    assert (document["sweep"], document["trial_id"]) == ("s", None)
    assert [line.split()[1] for line in document["lines"]] == ["started"]
    assert here("logs", "s", "-f", *where).out.endswith(" started\n")  # nobody drives it: it ends at once


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (
            ("s", "trial-001"),
            8,
            "trials/min_recall/trial-001/trial.log: there is no log; it is written while",
        ),
        (("s", "trial-009"), 8, "no trial 'min_recall/trial-009'; `selmix show s --runs "),
        (("t",), 8, "does not exist (no sweep.json); there are: s"),
        (("s", "--json", "--follow"), 2, "--follow prints until the sweep ends, --json one document"),
    ],
)
def test_logs_that_there_are_not(folder: RunFolder, arguments: tuple[str, ...], code: int, says: str) -> None:
    done = here("logs", *arguments, "--runs", folder.store.root)
    assert (done.code, done.out) == (code, "")
    assert says in done.err


def test_the_pages_of_a_server_are_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret-word@host:5000/")
    done = here("ui", "--runs", tmp_path)
    assert (done.code, done.out, done.err) == (0, "http://host:5000\n", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert here("ui", "--runs", tmp_path / "none").code == 8


def test_an_empty_folder_has_no_sweeps_and_no_pins(tmp_path: Path) -> None:
    assert here("ls", cwd=tmp_path).out == "no sweeps in runs; selmix launch FILE starts one\n"
    assert here("ls", "--json", cwd=tmp_path).document["sweeps"] == []
    assert here("pins", "--json", cwd=tmp_path).document["pins"] == []
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_record_is_named_by_every_reader(folder: RunFolder) -> None:
    folder.record_path("min_recall/trial-000").write_text("{}")
    for arguments in (("ls",), ("show", "s")):
        done = here(*arguments, "--runs", folder.store.root)
        assert (done.code, done.out) == (4, "")
        assert "record.json: must be a whole record: trial_id Field required" in done.err


def test_a_taken_port_is_a_failed_preflight(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (folder.store.root / "mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = here("ui", "--runs", folder.store.root, "--port", str(taken.getsockname()[1]))
    assert (done.code, done.out) == (4, "")
    assert done.err.startswith("selmix: --port: 127.0.0.1:")
    assert done.err.count("\n") == 1


def test_the_pages_of_a_server_have_a_link_for_each_of_its_sweeps(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret-word@host")
    folder.save_spec({"objectives": ["min_recall", "g_mean"]})
    state = SweepState("s", "1" * 16, tracking_uri="https://host", created="2026-01-01")
    state.experiment_id, state.views = "3", {"min_recall": "a-1", "g_mean": "a-2"}
    folder.save_state(state)
    # One of an earlier version has no views, and one of another store no place here.
    for name, uri in (("older", "https://host"), ("elsewhere", "https://other")):
        other = RunFolder.local(folder.store.root, name)
        other.create()
        other.save_spec({"objectives": ["min_recall", "g_mean"]})
        other.save_state(
            SweepState(name, "2" * 16, tracking_uri=uri, experiment_id="4", created="2025-01-01")
        )
    where = "https://host/#/experiments/{}/runs?workflowType=machine_learning"
    mine = [
        f"s min_recall: {where.format(3)}&viewStateShareKey=a-1",
        f"s g_mean: {where.format(3)}&viewStateShareKey=a-2",
    ]
    assert here("ui", "--runs", folder.store.root).out.splitlines() == [
        "https://host", *mine, f"older: {where.format(4)}",
    ]  # fmt: skip
    assert here("ui", "s", "--runs", folder.store.root).out.splitlines() == ["https://host", *mine]
    assert here("ui", "t", "--runs", folder.store.root).code == 8


def test_advice_keeps_the_folders_that_were_given(tmp_path: Path) -> None:
    assert here("ls", "--runs", "a b", cwd=tmp_path).out == (
        "no sweeps in a b; selmix launch FILE --runs 'a b' starts one\n"
    )
    assert here("pins", cwd=tmp_path).out == "no pins yet; selmix pin SWEEP --name NAME writes one\n"
    assert here("pins", "--pins", "p", cwd=tmp_path).out == (
        "no pins yet; selmix pin SWEEP --pins p --name NAME writes one\n"
    )


def test_a_shipped_sweep_file_is_found_by_its_name_and_a_file_of_it_goes_before(tmp_path: Path) -> None:
    assert here("validate", "smoke", cwd=tmp_path).code == 0
    (tmp_path / "smoke").write_text("version: 1\n")
    assert here("validate", "smoke", cwd=tmp_path).code == 3
    for none in ("smoke.yaml", "./smoky"):
        assert "must be a readable sweep file" in here("validate", none, cwd=tmp_path).err
    (tmp_path / "smoke").unlink()
    for near, hint in (("smok", "did you mean smoke?"), ("zzz", "`selmix ls")):
        done = here("launch", near, cwd=tmp_path)
        assert done.code == 3
        assert done.err.startswith(
            f"selmix: {near}: must be a sweep file, or the name of one that comes with selmix; {hint}"
        )
