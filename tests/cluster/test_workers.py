"""Sweeps whose trials run on two workers: result, pin, reproduction; a worker that dies, a driver that stops."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.command import SLOW_SMOKE, Background, no_ray_of, selmix
from tests.fakes.smoke import finished, records

pytestmark = [
    pytest.mark.ray,
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two cores"),
]

TWO = ("resources.workers=2", "search.num_trials=3")
LONG = (*TWO, "parameters.steps.value=400", "parameters.refresh_every.value=5")


def workers_of(driver: Background) -> list[int]:
    """Processes of the ranks that a driver's trials run on."""
    listed = subprocess.run(["ps", "-eo", "sid,pid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()[1:]]
    return [int(pid) for sid, pid, args in rows if int(sid) == driver.process.pid and "ray::Rank" in args]


def rounds_of(runs: Path, trial: str) -> int:
    table = runs / "smoke" / "trials" / trial / "rounds.jsonl"
    return len(table.read_text().splitlines()) if table.is_file() else 0


def test_a_sweep_on_two_workers_is_pinned_and_reproduced(tmp_path: Path) -> None:
    runs, pins = tmp_path / "runs", tmp_path / "pins"
    done = selmix("launch", SLOW_SMOKE, *TWO, "--runs", runs)
    assert done.code == 0, done.err
    shown: dict[str, Any] = selmix("show", "smoke", "--runs", runs, "--json").document
    assert {row["state"] for row in shown["trials"]} == {"FINISHED"}
    assert shown["objectives"]["min_recall"]["winner"] is not None
    assert selmix("pin", "smoke", "--name", "two", "--runs", runs, "--pins", pins).code == 0
    again = selmix("reproduce", "two", "--runs", runs, "--pins", pins, "--json")
    assert again.code == 0, again.out
    assert all(compared["equal"] for compared in again.document["compared"])
    changed = selmix("launch", SLOW_SMOKE, *TWO, "resources.workers=1", "--runs", runs)
    assert changed.code == 2
    assert "resources.workers (2 -> 1)" in changed.err


def test_a_trial_whose_worker_dies_goes_on(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    overrides = (*TWO, "parameters.steps.value=100")
    with Background("launch", SLOW_SMOKE, *overrides, "--runs", runs, log=tmp_path / "log") as driver:
        driver.wait_until(lambda: rounds_of(runs, "min_recall/trial-000") >= 1)
        os.kill(max(workers_of(driver)), signal.SIGKILL)
        assert driver.process.wait(timeout=240) == 0, driver.log.read_text()
        assert no_ray_of(driver.process)
    told = records(runs)
    assert {record["state"] for record in told.values()} == {"FINISHED"}
    assert [told[f"min_recall/trial-00{number}"]["losses"] for number in range(3)] == [1, 0, 0]
    log = driver.log.read_text()
    assert "min_recall/trial-000: RankLost: worker" in log
    assert "died: its process crashed or was ended from outside; it resumes from its beginning" in log
    undisturbed = tmp_path / "undisturbed"
    assert selmix("launch", SLOW_SMOKE, *overrides, "--runs", undisturbed).code == 0
    digests = [
        {key: record["weights_digest"] for key, record in records(r).items()} for r in (runs, undisturbed)
    ]
    assert digests[0]["min_recall/trial-000"] == digests[1]["min_recall/trial-000"]


TIGHT = """
import ray
from selmix.objectives import *


def needs_the_machine(confusion):
    taken = ray.get_runtime_context().get_assigned_resources() if ray.is_initialized() else {}
    if 0 < taken.get("CPU", 0) < 2:
        raise MemoryError(f"no room beside others: {taken}")
    return (confusion.diagonal() / confusion.sum(1)).mean()
"""


def test_a_run_out_of_memory_gets_the_machine_for_itself(tmp_path: Path) -> None:
    (tmp_path / "tight.py").write_text(TIGHT)
    file, runs = tmp_path / "tight.yaml", tmp_path / "runs"
    text = SLOW_SMOKE.read_text().replace(
        "objectives: [min_recall]", "objectives: ['tight:needs_the_machine']"
    )
    file.write_text(text.replace("name: smoke", "name: tight"))
    small = (
        "search.num_trials=2",
        "selection.replicates=1",
        "parameters.steps.value=20",
        "search.max_failed=1",
    )
    done = selmix("launch", file, *small, "--runs", runs, cwd=tmp_path)
    assert done.code == 0, done.err
    shown = selmix("show", "tight", "--runs", runs, "--json").document
    assert {(row["state"], row["alone"], row["losses"]) for row in shown["trials"]} == {("FINISHED", True, 1)}
    assert "MemoryError: no room beside others: {'CPU': 1.0}; it resumes" in done.err
    assert "exclusive (nothing runs beside it)" in done.err


def test_ctrl_c_in_the_middle_of_a_trial_leaves_nothing_and_it_goes_on(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with Background("launch", SLOW_SMOKE, *LONG, "--runs", runs, log=tmp_path / "log") as driver:
        driver.wait_until(lambda: rounds_of(runs, "min_recall/trial-000") > 5)
        driver.signal(signal.SIGINT)
        assert driver.process.wait(timeout=60) == 130
        assert no_ray_of(driver.process)
    assert {record["state"] for record in records(runs).values()} <= {"FINISHED", "INTERRUPTED"}
    with Background("launch", SLOW_SMOKE, *LONG, "--runs", runs, log=tmp_path / "log2") as driver:
        driver.wait_until(lambda: "min_recall/trial-000" in finished(runs))
        driver.signal(signal.SIGTERM)
        assert driver.process.wait(timeout=60) == 143
        assert no_ray_of(driver.process)
    assert rounds_of(runs, "min_recall/trial-000") == 81  # each round once
