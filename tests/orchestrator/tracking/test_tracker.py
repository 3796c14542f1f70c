"""MLflow as it is: a SQLite file, and a server that the test starts, kills and starts again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.credentials import masked
from orchestrator.errors import PreflightError
from orchestrator.records.types import Figure
from orchestrator.tracking.address import check_tracking, tracking_address
from orchestrator.tracking.client import open_client, read_run
from orchestrator.tracking.outbox import FailureKind, failure_kind
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.values import Best, checked_key, frozen_params, metrics_to_keep
from tests.command import SMOKE, selmix
from tests.fakes.servers import MlflowServer

pytestmark = pytest.mark.filterwarnings("ignore")

BEST = Best({"min_recall": Figure(0.5, 0.25, 0.75), "accuracy": Figure(0.5, 0.1, 0.9)}, "min_recall", 0.4)


def tracker_of(address: str, folder: Path, notes: list[str] | None = None, sweep_id: str = "s1") -> Tracker:
    return Tracker(
        address, "experiment", sweep_id, folder / "artifacts", (notes if notes is not None else []).append
    )


def write_everything(tracker: Tracker, folder: Path) -> str:
    tracker.open_sweep("experiment", {"k": "v"}, {"data.name": "digits"})
    tags = {"selmix.kind": "trial", "selmix.state": "RUNNING"}
    run_id = tracker.open_trial("o/trial-000", "trial-000", tags, {"lr": 0.1, "steps": None}, 1000, None)
    for k in range(5):
        tracker.log_round("o/trial-000", 20 * k, 2000 + k, {"select/min_recall": k / 10, "round": float(k)})
    table = folder / "rounds.parquet"
    table.write_bytes(b"x")
    tracker.finish_trial("o/trial-000", "FINISHED", 9000, 80, BEST, {"selmix.state": "FINISHED"}, [table])
    tracker.finish_sweep("FINISHED", 9500, {"best/select/min_recall": 0.5}, {"selmix.winner": "o/trial-000"})
    assert tracker.close() == 0
    assert run_id is not None
    return run_id


def check_everything(address: str, run_id: str) -> None:
    client = open_client(address)
    run = client.get_run(run_id)
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("FINISHED", 1000, 9000)
    history = client.get_metric_history(run_id, "select/min_recall")
    assert [(p.step, p.timestamp, p.value) for p in history] == [(20 * k, 2000 + k, k / 10) for k in range(5)]
    assert {key: value for key, value in run.data.metrics.items() if key.startswith("best/")} == {
        "best/score": 0.4, "best/select/min_recall": 0.5, "best/select/min_recall/low": 0.25,
        "best/select/min_recall/high": 0.75, "best/select/accuracy": 0.5,
    }  # fmt: skip
    assert json.loads(Path(client.download_artifacts(run_id, "best.json")).read_text()) == BEST.to_document()
    assert run.data.params == {"lr": "0.1", "steps": "null"}
    assert run.data.tags["selmix.state"] == "FINISHED"
    assert [artifact.path for artifact in client.list_artifacts(run_id)] == ["best.json", "rounds.parquet"]
    runs = client.search_runs([run.info.experiment_id])
    assert len(runs) == 2
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["selmix.winner"] == "o/trial-000"
    assert parent.data.metrics == {"best/select/min_recall": 0.5}


def test_everything_arrives_and_sent_again_changes_nothing(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/mlflow.db"
    run_id = write_everything(tracker_of(address, tmp_path), tmp_path)
    check_everything(address, run_id)
    assert write_everything(tracker_of(address, tmp_path), tmp_path) == run_id
    check_everything(address, run_id)


def test_what_a_killed_driver_left_is_reaped_and_opened_again(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/mlflow.db"
    first = tracker_of(address, tmp_path)
    parent = first.open_sweep("experiment", {}, {})
    run_id = first.open_trial("o/trial-000", "trial-000", {}, {}, 1000, None)
    other = tracker_of(address, tmp_path, sweep_id="another")
    other.open_sweep("experiment", {}, {})
    theirs = other.open_trial("o/trial-000", "trial-000", {}, {}, 1000, None)
    second = tracker_of(address, tmp_path)
    assert second.open_sweep("experiment", {}, {}) == parent
    second.reap(5000)
    assert run_id is not None
    assert theirs is not None
    assert read_run(address, run_id).info.status == "KILLED"
    assert read_run(address, theirs).info.status == "RUNNING"  # another sweep's
    assert second.open_trial("o/trial-000", "trial-000", {}, {}, 1000, None) == run_id
    assert read_run(address, run_id).info.status == "RUNNING"
    for tracker in (first, second, other):
        tracker.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.mark.slow
def test_a_server_gets_the_same(server: MlflowServer, tmp_path: Path) -> None:
    check_tracking(server.address)
    run_id = write_everything(tracker_of(server.address, tmp_path, sweep_id="served"), tmp_path)
    check_everything(server.address, run_id)


@pytest.mark.slow
def test_a_server_that_goes_away_costs_nothing(server: MlflowServer, tmp_path: Path) -> None:
    notes: list[str] = []
    tracker = tracker_of(server.address, tmp_path, notes, sweep_id="away")
    tracker.open_sweep("experiment", {}, {})
    run_id = tracker.open_trial("o/trial-000", "trial-000", {}, {}, 1000, None)
    tracker.log_round("o/trial-000", 0, 2000, {"x": 0.0})
    server.kill()
    started = time.monotonic()
    for k in range(1, 30):
        tracker.log_round("o/trial-000", k, 2000 + k, {"x": float(k)})
    late = tracker.open_trial("o/trial-001", "trial-001", {"selmix.kind": "trial"}, {}, 3000, None)
    tracker.log_round("o/trial-001", 0, 3000, {"x": 1.0})
    tracker.finish_trial("o/trial-001", "FINISHED", 4000, 0, BEST, {}, [])
    assert time.monotonic() - started < 8
    server.start()
    assert tracker.close(60) == 0
    assert notes == []
    client = open_client(server.address)
    history = client.get_metric_history(run_id, "x")
    assert sorted((p.step, p.value) for p in history) == [(k, float(k)) for k in range(30)]
    opened = tracker.run_id("o/trial-001")
    assert late in (None, opened)
    assert opened is not None
    assert client.get_run(opened).info.status == "FINISHED"


@pytest.mark.long
@pytest.mark.ray
def test_a_sweep_on_a_server(server: MlflowServer, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    done = selmix("launch", SMOKE, "search.num_trials=2", "--runs", runs, MLFLOW_TRACKING_URI=server.address)
    assert done.code == 0, done.err
    assert not (runs / "mlflow.db").exists()
    shown = selmix("show", "smoke", "--runs", runs, "--json").document
    client = open_client(server.address)
    for row in shown["trials"]:
        run = client.get_run(row["mlflow_run_id"])
        assert run.info.status == "FINISHED"
        assert run.data.metrics["best/select/min_recall"] == row["select"]["min_recall"]["value"]
        artifacts = [artifact.path for artifact in client.list_artifacts(run.info.run_id)]
        assert artifacts == ["best.json", "rounds.parquet"]
    pins = tmp_path / "pins"
    pinned = selmix(
        "pin", "smoke", "--name", "served", "--runs", runs, "--pins", pins, MLFLOW_TRACKING_URI=server.address
    )
    assert pinned.code == 0, pinned.err
    assert client.get_model_version_by_alias("smoke", "served").source


def test_addresses(tmp_path: Path) -> None:
    assert tracking_address(tmp_path / "runs", {}) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert tracking_address(tmp_path, {"MLFLOW_TRACKING_URI": "https://a:b@host/x/"}) == "https://a:b@host/x"
    for wrong in ("file:///x", "relative/path", "sqlite://", "databricks"):
        with pytest.raises(PreflightError, match="MLFLOW_TRACKING_URI"):
            tracking_address(tmp_path, {"MLFLOW_TRACKING_URI": wrong})


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:pass@host:5000/p", "https://host:5000/p"),
        ("https://user:p@ss/word@host/p", "https://host/p"),
        ("postgresql://u:p@h/db?password=x&sslmode=on", "postgresql://h/db?password=***&sslmode=on"),
        ("sqlite:////a/b@c.db", "sqlite:////a/b@c.db"),
    ],
)
def test_no_credentials_are_shown(address: str, shown: str) -> None:
    assert masked(address) == shown


def test_metrics_that_mlflow_can_keep() -> None:
    kept = metrics_to_keep({"a": 1.0, "b": float("inf"), "c": None, "d/low": 0.5})
    assert kept == {"a": 1.0, "d/low": 0.5}
    with pytest.raises(ValueError, match="at most 1, got 2"):
        metrics_to_keep({"a": 1.0, "b": 2.0}, limit=1)
    for key in ("recall@5", "a=b", "", "a//b", "../x", "x" * 251):
        with pytest.raises(ValueError, match="MLflow key"):
            checked_key(key)
    assert frozen_params({"a": None, "b": 0.1, "c": "x", "d": True}) == {
        "a": "null",
        "b": "0.1",
        "c": "x",
        "d": "true",
    }
    assert len(frozen_params({"a": "x" * 9000})["a"]) == 6000


class _Http(Exception):
    def __init__(self, status: int) -> None:
        self.response = type("Response", (), {"status_code": status})()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionError("refused"), FailureKind.RETRY),
        (_Http(503), FailureKind.RETRY),
        (_Http(500), FailureKind.DOUBTFUL),
        (_Http(400), FailureKind.PERMANENT),
        (ValueError("x"), FailureKind.PERMANENT),
    ],
)
def test_which_errors_are_worth_another_attempt(error: Exception, kind: FailureKind) -> None:
    assert failure_kind(error) is kind
