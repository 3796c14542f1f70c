"""A sweep whose trials are stopped early, on Ray: records, journal, MLflow and result, also after kills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from orchestrator.records.folder import RunFolder
from tests.command import SMOKE, Background, selmix
from tests.fakes.smoke import DECIDED, mlflow_runs, records

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

IDLE = "0.000001, 0.000002, 0.000003, 0.000004"
"""Rates at which nothing is learned: a trial stays at the start model, which the defaults leave behind."""

LAUNCH = (
    "launch", SMOKE, "rungs=[finetune]", "search.method=grid", "search.num_trials=6", "search.max_concurrent_trials=1",
    f"parameters={{start: {{value: given}}, lr: {{values: [0.03, {IDLE}, 0.02]}}, refresh_every: {{value: 50}}, "
    "steps: {value: 800}}", "early_stopping={method: asha, grace_steps: 200, reduction_factor: 2}",
)  # fmt: skip
"""One trial at a time, so that what is decided about it depends on its number alone."""

PRUNED = [f"min_recall/trial-{number:03d}" for number in range(1, 5)]


def states(runs: Path) -> dict[str, str]:
    return {name: record["state"] for name, record in records(runs).items() if record["kind"] == "trial"}


def of_state(runs: Path, state: str) -> list[str]:
    return sorted(name for name, each in states(runs).items() if each == state)


def journal(runs: Path) -> list[optuna.trial.FrozenTrial]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(runs / "smoke" / "journal.log")))
    return optuna.load_study(storage=storage, study_name="min_recall").get_trials()


def shown(runs: Path) -> dict[str, Any]:
    return selmix("show", "smoke", "--runs", runs, "--json").document


def table(runs: Path) -> dict[str, Any]:
    """The result without what a clock decides."""
    document = shown(runs)
    own = (*DECIDED, "feasible")
    result = document["objectives"]["min_recall"]
    folder = RunFolder.local(runs, "smoke")
    return {
        "trials": [{key: row[key] for key in own} for row in document["trials"]],
        "rounds": {
            row["trial_id"]: [(r["round"], r["score"]) for r in folder.rounds(row["trial_id"])]
            for row in document["trials"]
        },
        "journal": [(t.state.name, t.params, t.values, t.intermediate_values) for t in journal(runs)],
        "winner": result["winner"]["trial_id"], "tied": result["tied"], "verdict": result["verdict"]["difference"],
    }  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("undisturbed") / "runs"
    done = selmix(*LAUNCH, "--runs", runs)
    assert done.code == 0, done.err
    assert "min_recall/trial-001  pruned" in done.err
    return runs


@pytest.mark.slow
def test_a_stopped_trial_is_pruned_everywhere_and_cannot_win(undisturbed: Path) -> None:
    assert of_state(undisturbed, "PRUNED") == PRUNED
    assert of_state(undisturbed, "FINISHED") == ["min_recall/trial-000", "min_recall/trial-005"]
    folder = RunFolder.local(undisturbed, "smoke")
    for name in PRUNED:
        record, rounds = folder.load_trial(name), folder.rounds(name)
        steps = rounds[-1]["steps"]
        assert 200 <= steps < 800
        assert record.stop_reason == f"early stopping (asha) after {steps} steps"
        best = max(rounds, key=lambda row: row["score"])
        assert (record.round, record.score, record.checkpoint) == (best["round"], best["score"], None)
        assert record.cost_s > 0
        assert not folder.weights_path(name).exists()

    for trial in journal(undisturbed):
        name = f"min_recall/trial-{trial.number:03d}"
        assert trial.state.name == ("PRUNED" if name in PRUNED else "COMPLETE")
        if name in PRUNED:
            assert list(trial.intermediate_values) == [row["steps"] for row in folder.rounds(name)]
            assert trial.value == folder.load_trial(name).score

    sent = {
        run.data.tags["selmix.trial_id"]: run
        for run in mlflow_runs(undisturbed)
        if "selmix.trial_id" in run.data.tags
    }
    assert {run.info.status for run in sent.values()} == {"FINISHED"}
    for name in PRUNED:
        run = sent[name]
        assert run.data.tags["selmix.state"] == "PRUNED"
        assert run.data.tags["selmix.stop_reason"].startswith("early stopping (asha)")
        assert "score" in run.data.metrics
        assert "best/score" not in run.data.metrics
    assert "best/score" in sent["min_recall/trial-005"].data.metrics

    document = shown(undisturbed)
    assert document["progress"] == {"finished": 10, "failed": 0, "running": 0, "total": 10, "eta_s": 0.0}
    replicated = {row["replicate_of"] for row in document["trials"]} - {None}
    assert replicated == {"min_recall/trial-000", "min_recall/trial-005"}
    result = document["objectives"]["min_recall"]
    assert not {final["trial_id"] for final in result["finalists"]} & set(PRUNED)
    (step,) = result["climb"]
    baselines = sum(row["cost_s"] for row in result["baselines"].values())
    assert step["spent_s"] == pytest.approx(sum(row["cost_s"] for row in document["trials"]) + baselines)
    text = selmix("show", "smoke", "--runs", undisturbed).out
    assert "10 finished, 4 of them stopped early, 0 failed, of 10" in text

    alone = selmix("launch", *LAUNCH[1:], "--in-process", "--runs", undisturbed)
    assert alone.code == 2
    assert "trials are stopped early by Ray Tune alone" in alone.err


@pytest.mark.long
def test_a_pruned_sweep_that_is_killed_decides_as_one_that_was_not(undisturbed: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    launch = (*LAUNCH, "--runs", runs)
    for count in (1, 2):

        def in_the_midst(count: int = count) -> bool:
            """True if so many trials were stopped, and the next one has some rounds."""
            rounds = [len(RunFolder.local(runs, "smoke").rounds(name)) for name in of_state(runs, "RUNNING")]
            return len(of_state(runs, "PRUNED")) >= count and any(number > 1 for number in rounds)

        with Background(*launch, log=tmp_path / f"log{count}") as driver:
            driver.wait_until(in_the_midst)
            driver.kill_driver()
        assert selmix("ls", "--runs", runs, "--json").document["sweeps"][0]["state"] == "stopped"
    before = records(runs)
    again = selmix(*launch)
    assert again.code == 0, again.err
    after = records(runs)
    for name in of_state(runs, "PRUNED"):
        if before.get(name, {}).get("state") == "PRUNED":  # not touched again, not even its clock
            assert after[name] == before[name]
    assert table(runs) == table(undisturbed)
    sent = mlflow_runs(runs)
    ids = [run.data.tags.get("selmix.trial_id") for run in sent]
    assert len(ids) == len(set(ids))
    assert {run.info.status for run in sent} == {"FINISHED"}
    states_sent = {run.data.tags.get("selmix.trial_id"): run.data.tags.get("selmix.state") for run in sent}
    assert [states_sent[name] for name in PRUNED] == ["PRUNED"] * 4
