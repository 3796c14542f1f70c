"""A whole sweep by the command line: records, MLflow, result, pin, reproduction."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from orchestrator.documents import from_document
from orchestrator.records.folder import RunFolder
from orchestrator.results.rows import ObjectiveResult, ranked_rows
from orchestrator.tracking.client import open_client
from tests.command import SMOKE, selmix
from tests.fakes import in_process

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

BASELINES = {
    "untouched", "post_hoc_logit_adjustment", "post_hoc_bias_search", "balanced_head",
    "last_layer_on_train_plus_feedback", "last_layer_post_hoc", "uniform_mixup", "selmix_post_hoc",
    "retrained_logit_adjusted", "tau_normalisation", "learnable_weight_scaling", "mislas_stage_two", "plug_in",
    "post_hoc_bias_search_both", "last_layer_post_hoc_both", "geometric_mean_head", "label_over_smoothing",
    "finetune_balanced", "finetune_logit_adjusted",
}  # fmt: skip


NO_OPPONENTS = {"uniform_mixup", "selmix_post_hoc", "retrained_logit_adjusted"}
"""Of SelMix: by the policy alone, with SelMix inside, of another cost."""


@pytest.fixture(scope="module")
def shown(smoke_runs: Path) -> dict[str, Any]:
    return selmix("show", "smoke", "--runs", smoke_runs, "--json").document


def mlflow_runs(runs: Path) -> list[Any]:
    client = open_client(f"sqlite:///{runs}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "smoke"]
    return list(client.search_runs([experiment.experiment_id]))


def test_the_result_has_every_part_of_its_contract(shown: dict[str, Any]) -> None:
    assert shown["schema_version"] == 1
    assert shown["state"] == "finished"
    assert shown["progress"] == {"finished": 8, "failed": 0, "running": 0, "total": 8, "eta_s": 0.0}
    assert shown["test_openings"] == []
    result = shown["objectives"]["min_recall"]
    assert set(result["baselines"]) == BASELINES
    winner = result["winner"]
    assert winner["approach"] in {"selmix", *BASELINES} - {"retrained_logit_adjusted"}
    assert result["front"] == [winner["row"]]
    assert winner["labels"] == next(row["labels"] for row in shown["rows"] if row["id"] == winner["row"])
    for verdict in (result["verdict"], result["selmix"]):
        assert verdict["outcome"] in {"better", "tied", "worse", "undecided"}
        assert verdict["against"] in verdict["differences"]
        assert (verdict["margin"], verdict["samples"]) == (0.02, 24)
    assert result["selmix"]["row"] in result["tied"]
    assert set(result["selmix"]["differences"]) == BASELINES - NO_OPPONENTS
    assert [name for name, row in result["baselines"].items() if row["reference"]] == [
        "retrained_logit_adjusted"
    ]
    assert result["baselines"]["untouched"]["labels"] == ["train"]
    assert result["baselines"]["untouched"]["cost_s"] == 0.0
    kinds = [row["kind"] for row in shown["trials"]]
    assert kinds.count("trial") == 4
    assert kinds.count("replicate") == 4
    assert len({row["trial_id"] for row in shown["trials"]}) == len(shown["trials"])


def test_trial_zero_is_the_defaults(shown: dict[str, Any]) -> None:
    (first,) = [row for row in shown["trials"] if row["trial_id"] == "min_recall/trial-000"]
    assert first["config"]["policy"] == "softmax"
    assert first["config"]["lr"] == 0.03
    assert first["config"]["effective_pairs"] == 0.6
    assert first["config"]["steps"] == 60  # the file fixes it


def test_the_opponent_has_the_best_score(shown: dict[str, Any]) -> None:
    result = shown["objectives"]["min_recall"]
    best = max(result["baselines"][name]["score"] for name in BASELINES - NO_OPPONENTS)
    assert result["baselines"][result["selmix"]["against"]]["score"] == best


def test_the_winner_is_within_the_margin_of_the_best_row(shown: dict[str, Any]) -> None:
    result = shown["objectives"]["min_recall"]
    scores = {name: row["score"] for name, row in result["baselines"].items() if not row["reference"]}
    finals = {final["trial_id"]: final["score"] for final in result["finalists"]}
    scores["selmix"] = finals[result["selmix"]["row"]]
    assert result["winner"]["replicates"]["score"] == scores[result["winner"]["approach"]]
    assert result["winner"]["replicates"]["score"] >= max(scores.values()) - 0.02


def test_the_start_head_is_that_of_the_baseline_to_the_bit(smoke_runs: Path) -> None:
    from selmix.weights import load_weights

    folder = RunFolder.local(smoke_runs, "smoke")
    head = load_weights(folder.base_head("min_recall"))
    baseline = load_weights(folder.weights_path("min_recall/baseline/last_layer_on_train_plus_feedback", 0))
    assert torch.equal(baseline["head.weight"], head["weight"])
    assert torch.equal(baseline["head.bias"], head["bias"])


def test_show_and_mlflow_agree_number_for_number(smoke_runs: Path, shown: dict[str, Any]) -> None:
    runs = {run.info.run_id: run for run in mlflow_runs(smoke_runs)}
    compared = 0
    result = shown["objectives"]["min_recall"]
    # SelMix stands in the table with the mean over its fresh seeds.
    means = {final["trial_id"]: final["score"] for final in result["finalists"]}
    in_table = {result["selmix"]["row"]: means[result["selmix"]["row"]]}
    baselines = shown["objectives"]["min_recall"]["baselines"].values()
    for row in [*shown["trials"], *baselines]:
        metrics = runs[row["mlflow_run_id"]].data.metrics
        for metric, figures in row["select"].items():
            assert metrics[f"best/select/{metric}"] == figures["value"]
            assert (f"best/select/{metric}/low" in metrics) == (metric == "min_recall")
            compared += 1
        assert metrics["best/select/min_recall/low"] == row["select"]["min_recall"]["low"]
        assert metrics["best/select/min_recall/high"] == row["select"]["min_recall"]["high"]
        assert metrics["best/score"] == in_table.get(row.get("trial_id"), row["score"])
    assert compared > 300


def test_mlflow_ranks_the_rows_as_the_table_does(smoke_runs: Path, shown: dict[str, Any]) -> None:
    result = from_document(ObjectiveResult, shown["objectives"]["min_recall"])
    ranked = {run.data.tags.get("selmix.rank"): run for run in mlflow_runs(smoke_runs)}
    del ranked[None]
    ordered = [ranked[rank] for rank in sorted(ranked)]
    table = ranked_rows("min_recall", result)
    assert [run.data.tags["selmix.trial_id"] for run in ordered] == [row.id for row in table]
    assert [run.data.metrics["best/score"] for run in ordered] == [row.score for row in table]
    # Behind the winner by score alone, so that a click on the column gives the table too.
    scores = [run.data.metrics["best/score"] for run in ordered[1:]]
    assert scores == sorted(scores, reverse=True)
    lines = selmix("show", "smoke", "--runs", smoke_runs).out.splitlines()
    start = next(number for number, line in enumerate(lines) if "95 % interval" in line and "score" in line)
    names = [line.split()[0].rstrip("*") for line in lines[start + 1 : start + 1 + len(table)]]
    assert [name if name not in ("SelMix", "winner") else None for name in names] == [
        None if number == 0 or row.approach == "selmix" else row.approach for number, row in enumerate(table)
    ]
    (link,) = shown["links"].values()
    assert link.endswith(f"viewStateShareKey={shown['sweep_id']}")


def test_rounds_in_mlflow_are_those_of_our_record(smoke_runs: Path, shown: dict[str, Any]) -> None:
    client = open_client(f"sqlite:///{smoke_runs}/mlflow.db")
    row = shown["trials"][0]
    ours = RunFolder.local(smoke_runs, "smoke").rounds(row["trial_id"])
    history = client.get_metric_history(row["mlflow_run_id"], "select/min_recall")
    assert [(p.step, p.value) for p in history] == [(r["steps"], r["select"]["min_recall"]) for r in ours]
    assert [r["round"] for r in ours] == [0, 1, 2, 3]
    logged = client.get_run(row["mlflow_run_id"]).data.metrics
    assert sum(not key.startswith("best/") for key in logged) <= 40
    assert {artifact.path for artifact in client.list_artifacts(row["mlflow_run_id"])} >= {"rounds.parquet"}


def test_mlflow_has_one_parent_and_its_children_each_once(smoke_runs: Path, shown: dict[str, Any]) -> None:
    runs = mlflow_runs(smoke_runs)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    ids = [run.data.tags["selmix.trial_id"] for run in children]
    wanted = [row["trial_id"] for row in shown["trials"]] + [
        f"min_recall/baseline/{name}" for name in BASELINES
    ]
    assert sorted(ids) == sorted(wanted)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.data.tags["selmix.sweep_id"] for run in runs} == {shown["sweep_id"]}
    assert parent.data.tags["selmix.winner"] == shown["objectives"]["min_recall"]["winner"]["trial_id"]
    names = {run.data.tags["mlflow.runName"] for run in children}
    assert {"trial-000", "trial-000-seed-1", "baseline-untouched"} <= names
    trial = next(run for run in children if run.data.tags["mlflow.runName"] == "trial-000")
    assert trial.data.params["lr"] == "0.03"
    assert trial.data.params["data.imbalance"] == "20"


def test_end_times_are_the_trials_own(smoke_runs: Path) -> None:
    for run in mlflow_runs(smoke_runs):
        trial_id = run.data.tags.get("selmix.trial_id")
        if trial_id is not None:
            record = RunFolder.local(smoke_runs, "smoke").load_trial(trial_id)
            assert (run.info.start_time, run.info.end_time) == (record.started_ms, record.ended_ms)


def test_a_finished_sweep_launched_again_runs_nothing(smoke_runs: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (smoke_runs / "smoke").rglob("*") if p.is_file()}
    done = selmix("launch", SMOKE, "--runs", smoke_runs)
    assert done.code == 0
    assert "smoke is finished" in done.err
    assert {p: p.stat().st_mtime_ns for p in (smoke_runs / "smoke").rglob("*") if p.is_file()} == before


def test_a_changed_file_is_named_key_by_key(smoke_runs: Path) -> None:
    done = selmix("launch", SMOKE, "search.num_trials=9", "parameters.lr.max=0.2", "--runs", smoke_runs)
    assert done.code == 2
    assert "parameters.lr.max (0.1 -> 0.2)" in done.err
    assert "search.num_trials (4 -> 9)" in done.err
    assert "name=NEW" in done.err


def test_another_store_is_refused(smoke_runs: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/other.db"
    done = selmix("launch", SMOKE, "--runs", smoke_runs, MLFLOW_TRACKING_URI=uri)
    assert done.code == 4
    assert "must resume with the MLflow store" in done.err


def test_the_last_screen_answers_a_stranger(smoke_runs: Path) -> None:
    text = selmix("show", "smoke", "--runs", smoke_runs).out
    first = text.splitlines()[0]
    outcomes = ("TIED", "BETTER", "WORSE", "CANNOT TELL")
    assert first.startswith(tuple(f"min_recall: {outcome}: " for outcome in outcomes))
    for part in (
        "objective",
        "winner",
        "significance",
        "search",
        "next",
        "selmix pin smoke",
        "labels used",
        *BASELINES,
    ):
        assert part in text
    listed = selmix("ls", "--runs", smoke_runs).out
    assert "smoke" in listed
    assert "finished" in listed


@pytest.mark.slow
def test_pin_and_reproduce(smoke_runs: Path, tmp_path: Path) -> None:
    runs, pins = tmp_path / "runs", tmp_path / "pins"
    shutil.copytree(smoke_runs, runs)
    done = selmix(
        "pin",
        "smoke",
        "--name",
        "first",
        "--runs",
        runs,
        "--pins",
        pins,
        MLFLOW_TRACKING_URI=f"sqlite:///{smoke_runs}/mlflow.db",
    )
    assert done.code == 0, done.err
    assert done.out.strip() == str(pins / "first.yaml")
    assert selmix("pin", "smoke", "--name", "first", "--runs", runs, "--pins", pins).code == 2
    text = (pins / "first.yaml").read_text()
    pin = yaml.safe_load(text)
    assert list(pin) == [
        "schema_version", "name", "created", "sweep", "objective", "trial_id", "is_winner", "seed", "round", "config",
        "protocol", "base", "digests", "select", "test", "replicates", "baselines", "verdict", "environment", "mlflow",
        "method", "row", "test_opening",
    ]  # fmt: skip
    assert set(pin["baselines"]) == BASELINES
    assert pin["verdict"]["test"]["against"] == pin["verdict"]["select"]["against"]
    openings = selmix("show", "smoke", "--runs", runs, "--json").document["test_openings"]
    assert [opening["by"] for opening in openings] == ["pin first"]

    again = selmix("reproduce", "first", "--runs", runs, "--pins", pins, "--json")
    assert again.code == 0, again.out
    assert again.document["same_stack"]
    assert all(compared["equal"] for compared in again.document["compared"])

    check_model(pins / "first.yaml", pin)
    check_registry(smoke_runs, pin)

    edited = text.replace("largest_class: 80\n", "largest_class: 81\n", 1)
    assert edited != text
    (pins / "first.yaml").write_text(edited)
    refused = selmix("reproduce", "first", "--runs", runs, "--pins", pins)
    assert refused.code == 7
    assert "protocol: was edited" in refused.err
    assert "EDITED since it was written: protocol" in selmix("pins", "--pins", pins).out


def check_model(path: Path, pin: dict[str, Any]) -> None:
    """The pinned module alone gives the pinned figures on test."""
    import selmix as package
    from selmix.data import build_data_config
    from selmix.metrics import MetricContext, Predictions, evaluate_predictions

    model = package.load_pin(path)
    assert model.class_names == tuple(f"gaussian{k}" for k in range(6))
    source = build_data_config(**pin["protocol"]["data"])
    test = source.load_test()
    with torch.no_grad():
        predictions = Predictions.from_logits(test.labels, model(test.inputs))
    context = MetricContext(train_counts=source.load().train_counts)
    values = evaluate_predictions(predictions, context)
    assert values["min_recall"] == pin["test"]["min_recall"]["value"]


def check_registry(runs: Path, pin: dict[str, Any]) -> None:
    client = open_client(f"sqlite:///{runs}/mlflow.db")
    version = client.get_model_version_by_alias("smoke", "first")
    assert version.run_id == pin["mlflow"]["run_id"]
    assert version.tags["selmix.weights_digest"] == pin["digests"]["weights"]


@pytest.mark.long
def test_a_number_edited_with_its_digest_is_found_by_training(smoke_runs: Path, tmp_path: Path) -> None:
    """Whoever forges the digests too still cannot forge the training."""
    from orchestrator.pins.lock_file import read_pin, sealed, write_pin

    pins = tmp_path / "pins"
    runs = tmp_path / "runs"
    shutil.copytree(smoke_runs, runs)
    store = f"sqlite:///{smoke_runs}/mlflow.db"
    assert (
        selmix(
            "pin", "smoke", "--name", "forged", "--runs", runs, "--pins", pins, MLFLOW_TRACKING_URI=store
        ).code
        == 0
    )
    pin = read_pin(pins, "forged")
    pin["test"]["min_recall"]["value"] += 0.02
    write_pin(pins / "forged.yaml", sealed(pin))
    done = selmix("reproduce", "forged", "--runs", runs, "--pins", pins)
    assert done.code == 7
    assert "test/min_recall/value: pinned" in done.err
    assert done.err.count("\n") == 1


def test_no_credentials_and_no_stray_files(smoke_runs: Path) -> None:
    assert not (smoke_runs / "smoke" / "ray").exists()
    assert not (smoke_runs / "smoke" / "lease.json").exists()
    with sqlite3.connect(smoke_runs / "mlflow.db") as store:
        assert store.execute("select count(*) from runs where status = 'RUNNING'").fetchone() == (0,)


@pytest.mark.slow
def test_the_smoke_sweep_is_that_of_ray_to_the_bit(smoke_runs: Path, tmp_path: Path) -> None:
    done = in_process.launch(tmp_path / "runs", "search.max_concurrent_trials=1")
    assert done.code == 0, done.err
    here_now, on_ray = in_process.show(tmp_path / "runs"), in_process.show(smoke_runs)
    assert len(on_ray["trials"]) == 8
    assert in_process.table(here_now) == in_process.table(on_ray)
    sent = [
        sorted(run.data.tags["mlflow.runName"] for run in mlflow_runs(runs))
        for runs in (tmp_path / "runs", smoke_runs)
    ]
    assert sent[0] == sent[1]
    assert not (tmp_path / "runs" / "smoke" / "ray").exists()
