"""Sweeps in this very process: run, pinned, resumed, drained, failed; and equal to the bit to one on Ray."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records.folder import RunFolder
from orchestrator.run.outcome import RunOutcome
from orchestrator.run.recorder import Recorder
from selmix.baselines import BASELINES, BaselineTask
from selmix.baselines.task import Models
from tests.command import ROOT, SMOKE, Background, here, selmix
from tests.fakes.in_process import SMALL, launch, show, table
from tests.fakes.smoke import mlflow_runs
from trainables.host import RunHost

OWN = """\
def worst(confusion):
    return (confusion.diagonal() / confusion.sum(1)).min()
"""

CHEAP = """\
version: 1
name: cheap
data: {name: gaussians, feedback: 30, select: 30, test: 50, largest_class: 100}
model: {name: linear_head}
objectives: [mean_recall, "own_of_processes:worst"]
rungs: [scores, head]
parameters: {lr: {min: 0.01, max: 0.1}, steps: {value: 20}}
screen: {num_configs: 12, promote: 2}
selection: {margin: 0.03}
"""

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # matters of MLflow's, on a store that begins empty
    pytest.mark.usefixtures("few_baselines"),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with a small sweep, run in this process."""
    runs = tmp_path_factory.mktemp("undisturbed") / "runs"
    done = launch(runs, *SMALL)
    assert done.code == 0, done.err
    assert "smoke: started in this process, driven by process " in done.err
    return runs


def test_it_is_pinned_and_reproduced(undisturbed: Path, tmp_path: Path) -> None:
    where = ("--runs", undisturbed, "--pins", tmp_path)
    assert here("pin", "smoke", "--name", "kept", *where).code == 0
    done = here("reproduce", "kept", *where, "--json")
    assert done.code == 0, done.out
    assert all(row["equal"] for row in done.document["compared"])


@pytest.mark.slow
def test_a_drained_sweep_resumes_to_the_same_result(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = 0
    on_round = Recorder.on_round

    def interrupted(recorder: Recorder, trial_id: str, report: Any) -> None:
        nonlocal rounds
        on_round(recorder, trial_id, report)
        rounds += 1
        if rounds == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_round", interrupted)
        done = launch(tmp_path / "runs", *SMALL)
    assert done.code == 130
    assert "stopping: what is finished is kept" in done.err
    record = RunFolder.local(tmp_path / "runs", "smoke").load_trial("min_recall/trial-000")
    assert record.state == "INTERRUPTED"
    assert record.checkpoint is not None
    assert show(tmp_path / "runs")["state"] == "stopped"
    # The rungs below the search were done; the trial and the sweep were not.
    statuses = {run.info.run_name: run.info.status for run in mlflow_runs(tmp_path / "runs")}
    assert {name for name, status in statuses.items() if status == "KILLED"} == {
        "smoke",
        "trial-000",
    }
    assert set(statuses.values()) == {"FINISHED", "KILLED"}
    again = launch(tmp_path / "runs", *SMALL)
    assert again.code == 0, again.err
    log = here("logs", "smoke", "trial-000", "--runs", tmp_path / "runs").out
    assert f"resumes from {record.checkpoint}" in log
    assert table(show(tmp_path / "runs")) == table(show(undisturbed))
    assert {run.info.status for run in mlflow_runs(tmp_path / "runs")} == {"FINISHED"}


def too_hot(_host: RunHost) -> dict[str, Any]:
    raise ValueError("too hot")


@pytest.mark.slow
def test_a_trial_that_raises_fails_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunHost, "step", too_hot)
    runs, arguments = tmp_path / "runs", ("search.max_failed=0.5", *SMALL)
    done = launch(runs, *arguments)
    assert done.code == 5
    assert "2 of 2 trials failed, search.max_failed allows 50 %: ValueError: too hot" in done.err
    document = show(runs)
    assert document["state"] == "failed"
    assert [(row["state"], row["error"]) for row in document["trials"]] == [
        ("FAILED", "ValueError: too hot")
    ] * 2
    assert 'raise ValueError("too hot")' in here("logs", "smoke", "trial-000", "--runs", runs).out
    assert launch(runs, *arguments).code == 5  # it stays failed


@pytest.mark.slow
def test_the_failure_budget_outlasts_a_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of four may fail. One fails before the sweep is drained, one after: with that the search ends."""
    runs, arguments = tmp_path / "runs", ("search.max_failed=0.25", *SMALL[1:])
    on_failed = Recorder.on_failed

    def draining(recorder: Recorder, trial_id: str, outcome: RunOutcome) -> None:
        on_failed(recorder, trial_id, outcome)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(RunHost, "step", too_hot)
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_failed", draining)
        assert launch(runs, *arguments).code == 143
    assert [row["state"] for row in show(runs)["trials"]] == ["FAILED"]
    assert launch(runs, *arguments).code == 5
    # Without the memory of the first launch a third one would have begun.
    assert [row["state"] for row in show(runs)["trials"]] == ["FAILED", "FAILED"]


@pytest.mark.slow
def test_a_baseline_that_raises_is_a_row_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BASELINES, "tau_normalisation", replace(BASELINES["tau_normalisation"], fit=cannot))
    assert launch(tmp_path / "runs", *SMALL).code == 0
    row = show(tmp_path / "runs")["objectives"]["min_recall"]["baselines"]["tau_normalisation"]
    assert (row["state"], row["error"]) == ("FAILED", "ArithmeticError: singular")
    assert "failed: ArithmeticError: singular" in here("show", "smoke", "--runs", tmp_path / "runs").out


def cannot(_task: BaselineTask) -> Models:
    raise ArithmeticError("singular")


def test_what_needs_ray_is_refused(tmp_path: Path) -> None:
    for arguments, words in (
        (("resources.workers=2",), "--in-process: runs have one worker, got resources.workers 2"),
        (("--address", "head:6379"), "--in-process runs the sweep without a cluster"),
        (("--submit",), "--in-process runs the sweep without a cluster"),
    ):
        done = here("launch", SMOKE, "--in-process", *arguments, "--runs", tmp_path / "runs")
        assert done.code == 2
        assert words in done.err
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def cheap_in_one_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Result of the sweep of the cheap rungs, made in one process of its own."""
    folder = tmp_path_factory.mktemp("cheap")
    (folder / "own_of_processes.py").write_text(OWN)
    (folder / "cheap.yaml").write_text(CHEAP)
    done = selmix("launch", "cheap.yaml", "--in-process", cwd=folder)
    assert done.code == 0, done.err
    assert "started in this process" in done.err
    return selmix("show", "cheap", "--json", cwd=folder).document


@pytest.mark.slow
def test_processes_side_by_side_give_the_bits_of_one(
    tmp_path: Path, cheap_in_one_process: dict[str, Any]
) -> None:
    """Two objectives, an own metric, a screen: nothing but what clocks decide differs."""
    (tmp_path / "own_of_processes.py").write_text(OWN)
    (tmp_path / "cheap.yaml").write_text(CHEAP)
    # In a process of its own: the module is imported from its folder.
    done = selmix("launch", "cheap.yaml", cwd=tmp_path)
    assert done.code == 0, done.err
    one = table(cheap_in_one_process)
    assert {row["approach"] for row in one["rows"]} >= {"selmix_head", "plug_in", "balanced_head"}
    assert table(selmix("show", "cheap", "--json", cwd=tmp_path).document) == one


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["started in", "screening", "baselines of head"])
def test_a_sweep_in_processes_that_is_stopped_resumes_to_the_same_result(
    tmp_path: Path, stage: str, cheap_in_one_process: dict[str, Any]
) -> None:
    (tmp_path / "own_of_processes.py").write_text(OWN)
    (tmp_path / "cheap.yaml").write_text(CHEAP)
    flags = ("launch", tmp_path / "cheap.yaml", "--runs", tmp_path / "runs")
    with Background(*flags, log=tmp_path / "log", PYTHONPATH=f"{ROOT}:{tmp_path}") as launched:
        launched.wait_until(lambda: stage in launched.log.read_text())
        launched.signal(signal.SIGTERM)
        assert launched.process.wait(20) == 143
        assert "Traceback" not in launched.log.read_text()
        assert f"selmix launch {tmp_path}/cheap.yaml" in launched.log.read_text()  # how to go on
    again = selmix(*flags, cwd=tmp_path)
    assert again.code == 0, again.err
    assert not RunFolder.local(tmp_path / "runs", "cheap").staged_data.exists()
    shown = selmix("show", "cheap", "--runs", tmp_path / "runs", "--json", cwd=tmp_path)
    assert table(shown.document) == table(cheap_in_one_process)
