"""A sweep on three hosts of which one is killed, one cut off and one late: nothing lost, nothing twice."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.records.folder import RunFolder
from orchestrator.records.types import TrialRecord
from orchestrator.tracking.client import open_client
from tests.command import ROOT, SLOW_SMOKE, Done, command, environment, selmix
from tests.fakes.hosts import Hosts, allowed

pytestmark = [
    pytest.mark.ray,
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not allowed(), reason="network namespaces are for root"),
]
SWEEP = (
    "search.num_trials=24", "parameters.steps.value=300", "parameters.refresh_every.value=10", "resources.gpu=1",
    "selection.replicates=1",
)  # fmt: skip


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path) as made:
        made.start_head(cpus=1)
        for name in ("a", "b"):
            made.add(name)
            made.start(name, cpus=1, gpus=1)
        yield made


class Launch:
    """The driver, on the host of the head."""

    def __init__(self, hosts: Hosts, runs: Path, log: Path, *overrides: str) -> None:
        self.runs, self.log = runs, log
        arguments = command(
            "launch", SLOW_SMOKE, *(overrides or SWEEP), "--address", hosts.address, "--runs", runs
        )
        with log.open("w") as file:
            self.process = subprocess.Popen(
                hosts.on("head", arguments), cwd=ROOT, env=environment(**hosts.variables), stdout=file, stderr=file
            )  # fmt: skip

    def records(self) -> list[TrialRecord]:
        return RunFolder.local(self.runs, "smoke").load_trials() if (self.runs / "smoke").is_dir() else []

    def finished(self) -> int:
        return sum(record.state == "FINISHED" for record in self.records())

    def until(self, holds: Callable[[], bool], timeout: float = 300) -> None:
        end = time.monotonic() + timeout
        while not holds():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.2)


def test_a_node_is_killed_one_cut_off_and_one_late(hosts: Hosts, tmp_path: Path) -> None:
    runs, chance = tmp_path / "runs", random.Random()
    launch = Launch(hosts, runs, tmp_path / "log")
    launch.until(lambda: launch.finished() >= 2)
    hosts.add("late")
    hosts.start("late", cpus=1, gpus=1)
    launch.until(lambda: launch.finished() >= 5)
    time.sleep(chance.uniform(0, 4))
    hosts.kill("a")
    launch.until(lambda: sum(record.losses for record in launch.records()) >= 1, 90)
    hosts.start("a", cpus=1, gpus=1)
    launch.until(lambda: launch.finished() >= 10)
    time.sleep(chance.uniform(0, 4))
    hosts.cut("b")
    launch.until(lambda: sum(record.losses for record in launch.records()) >= 2, 120)
    hosts.mend("b")
    end = time.monotonic() + 90
    while hosts.processes("b"):  # Ray took it for dead: the node ends itself once it hears of that
        assert time.monotonic() < end, "the old node on the host that was cut off is still there"
        time.sleep(0.5)
    hosts.start("b", cpus=1, gpus=1)
    assert launch.process.wait(timeout=600) == 0, launch.log.read_text()

    records = launch.records()
    assert {record.state for record in records} == {"FINISHED"}
    trials = [record for record in records if record.kind == "trial"]
    assert len(trials) == len({record.trial_id for record in trials}) == 24
    for record in records:  # every round once, whatever was run again
        rounds = [row["round"] for row in RunFolder.local(runs, "smoke").rounds(record.trial_id)]
        assert rounds == sorted(set(rounds))
    assert sum(record.losses for record in records) >= 2
    assert sum(record.lost_s for record in records) > 0
    told = launch.log.read_text()
    assert "its node died; it resumes from its" in told
    assert "raylet" not in told.lower()  # a line of ours for every loss, and none of Ray's pages
    shown: Done = selmix("show", "smoke", "--runs", runs)
    assert "interrupted with a worker or node and resumed" in shown.out
    document = selmix("show", "smoke", "--runs", runs, "--json").document
    client = open_client(document["tracking_uri"])
    (experiment,) = [e for e in client.search_experiments() if e.name == "smoke"]
    tracked = list(client.search_runs([experiment.experiment_id], max_results=1000))
    ids = [run.data.tags.get("selmix.trial_id") for run in tracked]
    assert (
        len(ids) == len(set(ids)) == 1 + len(records) + len(document["objectives"]["min_recall"]["baselines"])
    )
    assert {run.info.status for run in tracked} == {"FINISHED"}


def test_a_node_is_killed_in_the_midst_of_a_screen(hosts: Hosts, tmp_path: Path) -> None:
    """Its pieces are done again elsewhere, and the table is that of one process."""
    screened = (
        "rungs=[scores, head]", "screen={num_configs: 512, promote: 2, folds: 3}", "search.num_trials=3",
        "parameters.steps.value=1000", "parameters.refresh_every.value=10",
    )  # fmt: skip
    launch = Launch(hosts, tmp_path / "runs", tmp_path / "log", *screened, "resources.gpu=1")
    launch.until(lambda: "screening 512 configurations" in launch.log.read_text())
    time.sleep(random.Random().uniform(4, 8))
    assert "screened 512" not in launch.log.read_text(), "the screen is over before the node is killed"
    hosts.kill("a")
    assert launch.process.wait(timeout=600) == 0, launch.log.read_text()
    # The cluster's GPUs are only counted.
    alone = selmix("launch", SLOW_SMOKE, *screened, "--in-process", "--runs", tmp_path / "alone", timeout=600)
    assert alone.code == 0, alone.err
    tables = [
        pq.read_table(RunFolder.local(runs, "smoke").screen_table_path("min_recall")).drop_columns(
            ["seconds"]
        )
        for runs in (tmp_path / "runs", tmp_path / "alone")
    ]
    assert tables[0].num_rows == 512
    assert tables[0].equals(tables[1])
    heads = [
        selmix("show", "smoke", "--runs", runs, "--json").document["objectives"]["min_recall"]["baselines"]
        for runs in (tmp_path / "runs", tmp_path / "alone")
    ]
    assert heads[0]["selmix_head"]["score"] == heads[1]["selmix_head"]["score"]
    assert heads[0]["selmix_head"]["cross_fitted"] == heads[1]["selmix_head"]["cross_fitted"]
