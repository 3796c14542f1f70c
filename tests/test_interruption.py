"""A driver that is killed, interrupted or doubled."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.tracking import open_client
from selmix.baselines import baselines_for
from tests.command import SMOKE, Background, selmix

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

def records(runs: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in (runs / "smoke" / "trials").rglob("record.json"):
        try:
            record = json.loads(path.read_text())
        except ValueError:
            continue
        found[record["trial_id"]] = record
    return found


def finished(runs: Path) -> list[str]:
    return [name for name, record in records(runs).items() if record["state"] == "FINISHED"]


def mlflow_runs(runs: Path) -> list[Any]:
    client = open_client(f"sqlite:///{runs}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "smoke"]
    return list(client.search_runs([experiment.experiment_id]))


def table(runs: Path) -> dict[str, Any]:
    """The result without what clocks and random identities decide."""
    document = selmix("show", "smoke", "--runs", runs, "--json").document
    own = (
        "trial_id",
        "state",
        "seed",
        "round",
        "steps",
        "score",
        "config",
        "select",
        "weights_digest",
        "stop_reason",
    )
    result = document["objectives"]["min_recall"]
    baselines = {
        name: (row["select"], row["score"], row["labels"]) for name, row in result["baselines"].items()
    }
    return {
        "trials": [{key: row[key] for key in own} for row in document["trials"]],
        "winner": result["winner"]["trial_id"], "tied": result["tied"], "verdict": result["verdict"]["difference"],
        "baselines": baselines,
    }  # fmt: skip


def no_ray_of(process: subprocess.Popen[bytes], timeout: float = 20) -> bool:
    """Whether everything that the driver started is gone."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        listed = subprocess.run(["ps", "-eo", "sid,args"], capture_output=True, text=True, check=True).stdout
        if not any(line.split()[0] == str(process.pid) for line in listed.splitlines()[1:]):
            return True
        time.sleep(0.5)
    return False


def reachable_from_outside(session: int) -> set[str]:
    """Sockets of a session's processes that listen beyond loopback, as the kernel writes their addresses."""
    inodes = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # a process that just ended
            if int(stat.read_text().rpartition(")")[2].split()[3]) != session:
                continue
            for descriptor in (stat.parent / "fd").iterdir():
                inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state, inode = (row.split()[i] for i in (1, 3, 9))
            loopback = local.startswith("0100007F:") or local.split(":")[0] in _LOOPBACK_6
            if state == "0A" and inode in inodes and not loopback:
                found.add(local)
    return found


_LOOPBACK_6 = ("00000000000000000000000001000000", "0000000000000000FFFF00000100007F")


@pytest.mark.slow
def test_kill_9_in_every_phase(smoke_runs: Path, tmp_path: Path) -> None:
    """Killed at half of the search, among the finalists and among the baselines, each time launched again."""
    runs = tmp_path / "runs"
    launch = ("launch", SMOKE, "--runs", runs)
    with Background(*launch, log=tmp_path / "log") as driver:
        driver.wait_until(lambda: len(finished(runs)) >= 2)
        driver.kill_driver()
        before = {name: record for name, record in records(runs).items() if record["state"] == "FINISHED"}
        assert selmix("ls", "--runs", runs, "--json").document["sweeps"][0]["state"] == "stopped"
    with Background(*launch, log=tmp_path / "log2") as driver:
        driver.wait_until(lambda: any(len(name.split("/")) == 3 for name in finished(runs)))
        driver.kill_driver()
    with Background(*launch, log=tmp_path / "log3") as driver:
        driver.wait_until(lambda: len(list((runs / "smoke" / "baselines").rglob("record.json"))) >= 3)
        driver.kill_driver()
    again = selmix(*launch)
    assert again.code == 0, again.err
    after = records(runs)
    for name, record in before.items():  # a finished trial is not touched, not even its clock
        assert after[name] == record
    sent = mlflow_runs(runs)
    ids = [run.data.tags.get("selmix.trial_id") for run in sent]
    assert len(ids) == len(set(ids)) == 1 + 8 + len(baselines_for(num_groups=0))
    assert {run.info.status for run in sent} == {"FINISHED"}
    assert table(runs) == table(smoke_runs)


@pytest.mark.slow
def test_ctrl_c_drains_and_a_second_launch_waits_its_turn(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    overrides = ("search.num_trials=20", "parameters.steps.value=200")
    with Background("launch", SMOKE, *overrides, "--runs", runs, log=tmp_path / "log") as driver:
        driver.wait_until(lambda: len(finished(runs)) >= 1)
        assert reachable_from_outside(driver.process.pid) == set()
        second = selmix("launch", SMOKE, *overrides, "--runs", runs)
        assert second.code == 4
        assert f"held by process {driver.process.pid}" in second.err
        running = selmix("show", "smoke", "--runs", runs, "--json").document
        assert running["state"] == "running"
        assert running["objectives"]["min_recall"]["winner"] is None
        assert running["progress"]["total"] == 20
        driver.signal(signal.SIGINT)
        assert driver.process.wait(timeout=30) == 130
        assert no_ray_of(driver.process)
    assert {run.info.status for run in mlflow_runs(runs)} <= {"FINISHED", "KILLED"}
    assert {record["state"] for record in records(runs).values()} <= {"FINISHED", "INTERRUPTED"}
    stopped = selmix("show", "smoke", "--runs", runs, "--json").document
    assert stopped["state"] == "stopped"
    done = finished(runs)
    with Background("launch", SMOKE, *overrides, "--runs", runs, log=tmp_path / "log2") as driver:
        driver.wait_until(lambda: len(finished(runs)) > len(done))
        driver.signal(signal.SIGTERM)
        assert driver.process.wait(timeout=30) == 143
