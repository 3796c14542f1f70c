"""A driver that is interrupted or doubled."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.command import SMALL, SMOKE, Background, no_ray_of, selmix
from tests.fakes.smoke import finished, mlflow_runs, records

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


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
def test_ctrl_c_drains_and_a_second_launch_waits_its_turn(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    overrides = ("search.num_trials=20", "parameters.steps.value=1000")
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


@pytest.mark.slow
@pytest.mark.parametrize("after", ["started on this machine", "runs in MLflow"])
def test_sigterm_while_ray_starts_stops_and_the_next_launch_goes_on(after: str, tmp_path: Path) -> None:
    runs, log = tmp_path / "runs", tmp_path / "log"
    with Background("launch", SMOKE, *SMALL, "--runs", runs, log=log) as driver:
        driver.wait_until(lambda: after in log.read_text())
        os.kill(driver.process.pid, signal.SIGTERM)
        assert driver.process.wait(timeout=60) == 143
        assert no_ray_of(driver.process)
    assert "Traceback" not in log.read_text()
    done = selmix("launch", SMOKE, *SMALL, "--until", "head", "--runs", runs)
    assert done.code == 0, done.err
