"""A sweep in an object store whose head is lost with its disk, and that resumes elsewhere."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from orchestrator.records.folder import RunFolder
from orchestrator.records.object_store import ObjectStore
from orchestrator.records.synced_folder import SyncedStore
from orchestrator.tracking.client import open_client
from tests.command import SLOW_SMOKE, Background, selmix
from tests.fakes.servers import BUCKET, SECRET, MlflowServer, credentials, s3_server

pytestmark = [
    pytest.mark.ray,
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(900),
]
SEQUENTIAL = ("search.max_concurrent_trials=1", "search.num_trials=4", "parameters.steps.value=200")
OWN = ("trial_id", "state", "seed", "round", "steps", "score", "config", "select", "weights_digest")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the sweep on a disk, never interrupted."""
    runs = tmp_path_factory.mktemp("whole")
    told = selmix("launch", SLOW_SMOKE, *SEQUENTIAL, "--runs", runs)
    assert told.code == 0, told.err
    return runs


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    with MlflowServer(tmp_path) as server:
        yield server.address


def table(document: dict[str, Any]) -> dict[str, Any]:
    result = document["objectives"]["min_recall"]
    return {
        "trials": [{key: row[key] for key in OWN} for row in document["trials"]],
        "winner": result["winner"]["trial_id"], "verdict": result["verdict"]["difference"],
        "baselines": {name: (row["select"], row["score"]) for name, row in result["baselines"].items()},
    }  # fmt: skip


def test_the_head_is_lost_with_its_disk(tmp_path: Path, whole: Path, mlflow_server: str) -> None:
    # Ray's sockets lie below TMPDIR, and the path of a socket has 107 bytes at most: pytest's folders are too long.
    with s3_server() as endpoint, TemporaryDirectory() as first, TemporaryDirectory() as second:
        environ = credentials(endpoint) | {"MLFLOW_TRACKING_URI": mlflow_server}
        runs = f"s3://{BUCKET}/team"
        refused = selmix("launch", SLOW_SMOKE, "--runs", runs, **credentials(endpoint))
        assert refused.code == 4
        assert "MLFLOW_TRACKING_URI: must be set" in refused.err

        def finished() -> int:
            records = RunFolder.at(SyncedStore(ObjectStore(runs, environ)), "smoke").load_trials()
            return sum(record.state == "FINISHED" for record in records)

        launch = ("launch", SLOW_SMOKE, *SEQUENTIAL, "--runs", runs)
        with Background(*launch, log=tmp_path / "log", TMPDIR=first, **environ) as driver:
            driver.wait_until(lambda: finished() >= 2, timeout=240)
            doubled = selmix(*launch, **environ)
            assert doubled.code == 4
            assert f"held by process {driver.process.pid}" in doubled.err
            driver.signal(signal.SIGKILL)  # the whole group, Ray's head with it
            driver.process.wait()
        subprocess.run(["find", first, "-mindepth", "1", "-delete"], check=True)
        assert selmix("ls", "--runs", runs, "--json", **environ).document["sweeps"][0]["state"] == "stopped"
        again = selmix(*launch, timeout=400, TMPDIR=second, **environ)
        assert again.code == 0, again.err
        assert list(Path(second).glob("selmix-runs-*")) == []

        started = time.monotonic()
        shown = selmix("show", "smoke", "--runs", runs, "--json", **environ)
        assert time.monotonic() - started < 10
        local = selmix("show", "smoke", "--runs", whole, "--json").document
        assert table(shown.document) == table(local)
        ids = [row["trial_id"] for row in shown.document["trials"]]
        assert len(ids) == len(set(ids))
        store = ObjectStore(runs, environ)
        logged = selmix("logs", "smoke", "--runs", runs, **environ)
        assert logged.out.count("driven by process") == 2  # of the lost head too
        names = [item.path for item in store.objects("smoke")]
        assert not [name for name in names if "/ray/" in name]
        documents = [store.get(name) or b"" for name in names if name.endswith((".json", ".jsonl", ".log"))]
        assert not [text for text in documents if SECRET.encode() in text]

        client = open_client(mlflow_server)
        (experiment,) = [e for e in client.search_experiments() if e.name == "smoke"]
        tracked = list(client.search_runs([experiment.experiment_id]))
        tags = [run.data.tags.get("selmix.trial_id") for run in tracked]
        assert len(tags) == len(set(tags))
        assert {run.info.status for run in tracked} == {"FINISHED"}

        where = ("--runs", runs, "--pins", tmp_path / "pins")
        pinned = selmix("pin", "smoke", "--name", "kept", *where, **environ)
        assert pinned.code == 0, pinned.err
        reproduced = selmix("reproduce", "kept", *where, **environ)
        assert reproduced.code == 0, reproduced.err
        openings = json.loads(store.get("smoke/sweep.json") or b"{}")["test_openings"]
        assert [opening["by"] for opening in openings] == ["pin kept", "reproduce kept"]


def test_a_lost_journal_is_made_again(tmp_path: Path, whole: Path) -> None:
    killed = tmp_path / "killed"

    def finished() -> int:
        folder = RunFolder.local(killed, "smoke")
        return (
            sum(record.state == "FINISHED" for record in folder.load_trials()) if folder.path.exists() else 0
        )

    with Background("launch", SLOW_SMOKE, *SEQUENTIAL, "--runs", killed, log=tmp_path / "log") as driver:
        driver.wait_until(lambda: finished() >= 2)
        driver.signal(signal.SIGKILL)
        driver.process.wait()
    (killed / "smoke" / "journal.log").unlink()
    again = selmix("launch", SLOW_SMOKE, *SEQUENTIAL, "--runs", killed)
    assert again.code == 0, again.err
    shown = [selmix("show", "smoke", "--runs", runs, "--json").document for runs in (whole, killed)]
    assert table(shown[0]) == table(shown[1])
