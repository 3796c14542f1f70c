"""Sweeps on a running cluster: submitted, driven from here, two at once, stopped."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import ROOT, SLOW_SMOKE, SMALL, Background, selmix
from tests.fakes.job_head import Head, job_head

pytestmark = [
    pytest.mark.ray,
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with job_head(tmp_path_factory.mktemp("head")) as made:
        yield made


def until(holds: Any, timeout: float, log: Path) -> None:
    end = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < end, log.read_text() if log.is_file() else "no log"
        time.sleep(0.2)


def states(document: dict[str, Any]) -> set[str]:
    return {row["state"] for row in document["trials"]}


def test_two_sweeps_share_a_cluster_and_one_outlives_its_client(head: Head, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    submission = ("launch", SLOW_SMOKE, *SMALL, "--submit", "--address", head.server, "--runs", runs)
    staged = "resources.stage_above_mb=0"
    driven = (
        "launch",
        SLOW_SMOKE,
        *SMALL,
        "name=driven",
        "resources.max_cpus=1",
        staged,
        "--address",
        head.address,
    )
    lease = runs / "smoke" / "lease.json"
    with (
        Background(*submission, "--follow", log=tmp_path / "log", **head.variables) as client,
        Background(*driven, "--runs", runs, log=tmp_path / "log2", **head.variables) as driver,
    ):
        client.wait_until(lease.is_file, 240)
        client.kill_driver()
        again = selmix(*submission, **head.variables)
        assert again.code == 4
        assert "smoke: runs already, as job" in again.err
        followed = selmix("logs", "smoke", "--follow", "--runs", runs, timeout=600)
        assert followed.code == 0
        assert "search: 2 runs" in followed.out
        assert "last_layer_post_hoc" in followed.out
        assert driver.process.wait(timeout=600) == 0, driver.log.read_text()
    (job,) = head.jobs()
    for name in ("smoke", "driven"):
        shown = selmix("show", name, "--runs", runs, "--json").document
        assert (shown["state"], states(shown)) == ("finished", {"FINISHED"})
        assert len(shown["trials"]) == shown["progress"]["total"]
        assert sum(row["replicate_of"] is None for row in shown["trials"]) == 2
        assert {row["state"] for row in shown["objectives"]["min_recall"]["baselines"].values()} == {
            "FINISHED"
        }
        assert shown["cluster"]["address"] == head.address
        assert shown["cluster"]["package"] == job["metadata"]["selmix.package"]
    assert job["metadata"]["selmix.sweep"] == "smoke"
    rows = [selmix("show", name, "--runs", runs, "--json").document["trials"] for name in ("smoke", "driven")]
    assert [row["weights_digest"] for row in rows[0]] == [row["weights_digest"] for row in rows[1]]
    copies = [path for path in head.scratch.rglob("selmix-data/*") if path.suffix != ".lock"]
    assert len(copies) == 1
    assert not (runs / "driven" / "data.pt").exists()
    trial = selmix("logs", "smoke", "trial-001", "--runs", runs)
    assert "round 1, 20 steps" in trial.out
    assert selmix("logs", "smoke", "trial-099", "--runs", runs).code == 8
    assert selmix(*submission, "--follow", **head.variables).code == 0  # finished: runs nothing
    assert "smoke is finished" in head_log(head, job["submission_id"].removesuffix("-1") + "-2")


def head_log(head: Head, submission_id: str) -> str:
    token = Path(head.variables["RAY_AUTH_TOKEN_PATH"]).read_text()
    request = urllib.request.Request(
        f"{head.server}/api/jobs/{submission_id}/logs", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["logs"])


def test_a_submitted_sweep_is_stopped_and_cancelled(head: Head, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    long = ("search.num_trials=50", "parameters.steps.value=2000", "name=long")
    submission = ("launch", SLOW_SMOKE, *long, "--submit", "--address", head.server, "--runs", runs)
    submitted = selmix(*submission, **head.variables)
    assert submitted.code == 0, submitted.err
    records = runs / "long" / "trials"
    until(lambda: list(records.rglob("rounds.jsonl")), 240, runs / "long" / "driver.log")
    stopped = selmix("stop", "long", "--runs", runs)
    assert stopped.code == 0, stopped.err
    assert "long is stopped" in stopped.err
    shown = selmix("show", "long", "--runs", runs, "--json").document
    assert shown["state"] == "stopped"
    assert states(shown) == {"INTERRUPTED"}
    again = selmix("stop", "long", "--runs", runs)
    assert (again.code, again.err) == (0, "long is not running: stopped\n")
    assert selmix("stop", "long", "--cancel", "--runs", runs).code == 0
    shown = selmix("show", "long", "--runs", runs, "--json").document
    assert (shown["state"], states(shown)) == ("stopped", {"KILLED"})
    assert selmix("launch", SLOW_SMOKE, *long, "--runs", runs).code == 2
    assert selmix("stop", "none", "--runs", runs, cwd=ROOT).code == 8
