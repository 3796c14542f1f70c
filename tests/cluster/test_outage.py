"""An MLflow server with users over PostgreSQL goes away in the middle of a sweep, and comes back."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from orchestrator.records.folder import RunFolder
from orchestrator.tracking.client import open_client
from tests.command import SLOW_SMOKE, Background, selmix
from tests.fakes.servers import ADMIN, MlflowServer, postgres, postgres_programs

pytestmark = [
    pytest.mark.ray,
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        postgres_programs() is None, reason="PostgreSQL is not installed (Debian's `postgresql`)"
    ),
]
SWEEP = ("search.num_trials=10", "parameters.steps.value=200")
DATABASE, ENTRANCE = "d4tabase-s3cret", "entr4nce-s3cret"
AWAY_S = 20


def test_nothing_is_missing_after_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, runs = tmp_path / "server", tmp_path / "runs"
    home.mkdir()
    with postgres(DATABASE) as store, MlflowServer(home, store, ENTRANCE) as server:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(
                f"{server.address}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=30
            )
        user = {"MLFLOW_TRACKING_USERNAME": ADMIN, "MLFLOW_TRACKING_PASSWORD": ENTRANCE}
        refused = selmix("launch", SLOW_SMOKE, "--runs", runs, MLFLOW_TRACKING_URI=server.address)
        assert refused.code == 4
        assert "Traceback" not in refused.err
        environ = {"MLFLOW_TRACKING_URI": server.address} | user
        folder = RunFolder.local(runs, "smoke")

        def finished() -> int:
            return sum(r.state == "FINISHED" for r in folder.load_trials()) if folder.path.is_dir() else 0

        with Background(
            "launch", SLOW_SMOKE, *SWEEP, "--runs", runs, log=tmp_path / "log", **environ
        ) as driver:
            driver.wait_until(lambda: finished() >= 2)
            server.kill()
            before = finished()
            time.sleep(AWAY_S)
            assert driver.process.poll() is None
            assert finished() > before  # the sweep does not wait for it
            server.start()
            assert driver.process.wait(timeout=400) == 0, driver.log.read_text()
        if folder.load_state().unsent:
            # On a busy machine the server is slower than the sweep: what it had not taken by then is sent later.
            assert "writes did not reach MLflow; launch again" in driver.log.read_text()
            assert selmix("launch", SLOW_SMOKE, *SWEEP, "--runs", runs, **environ).code == 0
        assert folder.load_state().unsent == 0

        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        client = open_client(server.address)
        (experiment,) = [e for e in client.search_experiments() if e.name == "smoke"]
        tracked = {
            run.data.tags.get("selmix.trial_id"): run
            for run in client.search_runs([experiment.experiment_id], max_results=1000)
        }
        assert {run.info.status for run in tracked.values()} == {"FINISHED"}
        records = folder.load_trials()
        assert {record.trial_id for record in records} <= tracked.keys()
        for record in records:
            run_id = tracked[record.trial_id].info.run_id
            rows = folder.rounds(record.trial_id)
            for metric in ("min_recall", "mean_recall"):
                history = client.get_metric_history(run_id, f"select/{metric}")
                rounds = {(point.step, point.value) for point in history}
                assert {(row["steps"], row["select"][metric]) for row in rows} <= rounds, record.trial_id
    texts = [path.read_bytes() for path in runs.rglob("*") if path.is_file()] + [driver.log.read_bytes()]
    assert len(texts) > 50
    for secret in (DATABASE, ENTRANCE):
        assert not [text for text in texts if secret.encode() in text]
