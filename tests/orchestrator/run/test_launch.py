"""Launch: refusals before anything is written, and the folder of a sweep whose launch was killed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cluster.address import Cluster
from orchestrator.errors import PreflightError, SelmixError, UsageError
from orchestrator.records.folder import RunFolder
from orchestrator.records.leases.lease import acquire
from orchestrator.records.store import LocalStore
from orchestrator.records.types import DataFacts, SweepState
from orchestrator.run import launch as module
from orchestrator.run.launch import is_launched, launch_sweep, open_folder
from orchestrator.spec.checks import load_spec
from selmix import METHOD
from tests.command import SMOKE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return RunFolder.local(tmp_path / "runs", "smoke")


def begun(folder: RunFolder, **known: Any) -> None:
    folder.create()
    folder.save_spec(load_spec(SMOKE).resolved())
    folder.save_state(SweepState("smoke", "1" * 16, method=METHOD, **known))


def launched(folder: RunFolder, cluster: Cluster | None = None, *overrides: str) -> int:
    return launch_sweep(load_spec(SMOKE, overrides), SMOKE, folder.store, cluster)


def contents(folder: RunFolder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.store.root.parent.rglob("*") if path.is_file()}


def refused(folder: RunFolder, cluster: Cluster | None = None, *overrides: str) -> SelmixError:
    """The error of a launch that must be refused, with nothing written."""
    before = contents(folder)
    with pytest.raises(SelmixError) as error:
        launched(folder, cluster, *overrides)
    assert contents(folder) == before
    return error.value


def test_several_workers_and_object_stores_need_ray(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = refused(folder, None, "resources.workers=2")
    assert str(workers).endswith(
        "got resources.workers 2; set resources.workers=1, or leave --in-process out"
    )
    monkeypatch.setattr(LocalStore, "filesystem", lambda _: object())
    assert f"--runs must be a folder, got {folder.store.shown}; name one" in str(refused(folder))
    assert not folder.store.root.exists()


def test_trials_are_stopped_early_on_ray_alone(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = "early_stopping={method: median}"
    error = refused(folder, None, asked)
    assert isinstance(error, UsageError)
    assert str(error) == (
        "--in-process: trials are stopped early by Ray Tune alone, got early_stopping.method median; leave "
        "--in-process out, or early_stopping"
    )

    def checked(*_: object, **__: object) -> None:
        raise PreflightError("far enough")

    # Without a search there is nothing to stop: such a launch runs in this process by itself.
    monkeypatch.setattr(module, "check_all", checked)
    assert str(refused(folder, None, asked, "rungs=[scores, head]")) == "far enough"
    with pytest.raises(PreflightError, match="far enough"):
        launch_sweep(load_spec(SMOKE, [asked]), SMOKE, folder.store, None, until="head")


def test_one_driver_at_a_time_and_the_second_reads_nothing(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "check_all", lambda *_, **__: pytest.fail("checked before the lease"))
    with acquire(folder):
        assert isinstance(error := refused(folder), PreflightError)
    assert "must have one driver at a time, held by process" in str(error)


def test_a_cancelled_sweep_and_another_file_are_refused(folder: RunFolder) -> None:
    begun(folder, cancelled=True)
    assert "was cancelled for good; launch it under a new name" in str(refused(folder))
    begun(folder)
    changed = refused(folder, None, "search.num_trials=2")
    assert isinstance(changed, UsageError)
    assert "changed: search.num_trials (4 -> 2)" in str(changed)


@pytest.mark.parametrize("code", [None, 0])
def test_a_sweep_that_runs_on_does_so_on_the_data_that_it_began_with(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    facts = DataFacts(["a"], [9], {"select": "sha256:2"}, 5)
    begun(folder, data=facts, exit_code=code, unsent=1)
    now = SimpleNamespace(digests={"select": "sha256:3"}, class_names=("a",), group_names=())
    monkeypatch.setattr(module, "check_all", lambda *_, **__: ("sqlite:///x", now))
    monkeypatch.setattr(module, "acquire", lambda _: (_ for _ in ()).throw(PreflightError("far enough")))
    # Of one that was judged, what MLflow did not get is sent: nothing is run.
    says = "far enough" if code == 0 else "launched with other data; changed: select"
    assert says in str(refused(folder))


def test_a_head_that_does_not_answer_is_known_before_the_data_are_read(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "check_all", lambda *_, **__: pytest.fail("the data were read"))
    assert "Ray cluster at 127.0.0.1:1: must answer" in str(refused(folder, Cluster("127.0.0.1:1")))


@pytest.mark.parametrize("code", [0, 5, 6])
def test_a_sweep_that_ended_and_sent_everything_needs_nothing(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    monkeypatch.setattr(module, "check_all", lambda *_, **__: pytest.fail("checked for nothing"))
    begun(folder, state="failed" if code == 5 else "finished", exit_code=code)
    before = contents(folder)
    assert launched(folder) == code
    assert contents(folder) == before
    assert "to see it: selmix show smoke" in capsys.readouterr().err


def test_a_folder_whose_launch_was_killed_is_made_again(folder: RunFolder) -> None:
    spec, address = load_spec(SMOKE), "http://me:pa55word@mlflow:5000"
    folder.create()
    assert not is_launched(folder)
    first = open_folder(folder, spec, SMOKE, address)
    assert is_launched(folder)
    assert (first.tracking_uri, first.method, first.file_digest) == (
        "http://mlflow:5000",
        METHOD,
        spec.digest(),
    )
    assert folder.file_path.read_bytes() == SMOKE.read_bytes()
    folder.state_path.unlink()  # it is written last
    assert not is_launched(folder)
    second = open_folder(folder, spec, SMOKE, address)
    assert second.sweep_id != first.sweep_id
    assert folder.load_state() == second


def test_a_sweep_that_resumes_keeps_its_identity_and_forgets_its_problem(folder: RunFolder) -> None:
    begun(folder, state="stopped", problem="disk full", tracking_uri="http://mlflow:5000", created="then")
    state = open_folder(folder, load_spec(SMOKE), SMOKE, "http://you@mlflow:5000")
    assert (state.state, state.problem, state.sweep_id, state.created) == ("running", None, "1" * 16, "then")
    assert folder.load_state() == state
