"""Checks of the reports of nodes, without a cluster."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.cli.main import main
from orchestrator.cluster.capacity import Capacity, Limits, Machine, fits, shortage
from orchestrator.cluster.doctor import missing_here
from orchestrator.cluster.node_checks import (
    clock_offset,
    disagreements,
    node_problems,
    paths_that_trials_read,
)
from orchestrator.cluster.nodes import Answer, Node, capacity
from orchestrator.cluster.ray_session import RayStart
from orchestrator.progress import Progress
from orchestrator.records.folder import RunFolder
from orchestrator.run.drain import Drain
from orchestrator.spec.sections import ResourceSection
from selmix.data import write_table
from tests.command import SMOKE
from trainables.node import AutoscalerConfig, NodeKind, NodeReport, Probe, storage_problem, versions

ONE_GPU = Machine(4, 1)
RUNS = "/shared/runs"

# -- a trial against the nodes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resources", "machines", "expected"),
    [
        ({}, [Machine(2, 0)], 2),
        ({"cpu": 3}, [Machine(2, 0), Machine(2, 0)], 0),  # totals would do
        ({"gpu": 2}, [ONE_GPU, ONE_GPU], 0),
        ({"gpu": 1, "workers": 2}, [ONE_GPU, ONE_GPU, ONE_GPU], 1),
        ({"gpu": 0.25}, [Machine(16, 2)], 8),
        ({"gpu": 0.6}, [Machine(16, 2)], 2),  # a share lies on one GPU
        ({"gpu": 0.25, "cpu": 2}, [ONE_GPU], 2),
        ({"gpu": 1, "max_gpus": 2.0}, [Machine(16, 8)], 2),
        ({"max_cpus": 3, "workers": 2}, [Machine(16, 0)], 1),
    ],
)
def test_trials_that_fit(resources: dict[str, Any], machines: list[Machine], expected: int) -> None:
    assert fits(ResourceSection(**resources), machines) == expected


def test_what_an_autoscaler_adds() -> None:
    limits = Limits((NodeKind("small", 4, 1, 9), NodeKind("large", 32, 8, 1)), most=3)
    grown = Capacity((Machine(8, 0),), Machine(8, 0), limits)
    assert grown.trials(ResourceSection(gpu=1)) == 10  # one large, two small
    assert grown.at_once(ResourceSection(gpu=1), 4) == 4
    assert grown.trials(ResourceSection(gpu=16)) == 0
    problem = shortage(ResourceSection(gpu=16), grown)
    assert problem is not None
    assert "at most 9 small with cpu 4 and gpu 1 or 1 large with cpu 32 and gpu 8 (3 in all)" in problem
    assert shortage(ResourceSection(gpu=8), grown) is None


def test_an_autoscaler_whose_limits_cannot_be_read() -> None:
    grows = Capacity((ONE_GPU,), grows=True)
    assert grows.at_once(ResourceSection(gpu=1), None) == 1
    assert grows.at_once(ResourceSection(gpu=1), 8) == 8
    problem = shortage(ResourceSection(gpu=2), grows)
    assert problem is not None
    assert "keep one node alive that fits" in problem


def test_limits_as_the_head_reports_them() -> None:
    limits = AutoscalerConfig((NodeKind("gpu", 4.0, 1.0, 2),), 2)
    assert capacity([node()], limits).trials(ResourceSection(gpu=1)) == 2
    assert capacity([node()], AutoscalerConfig((), 2)).limits is None
    assert capacity([node()], AutoscalerConfig(unknown="KubeRay")).grows
    assert capacity([node()], None) == Capacity((Machine(2, 0),), Machine(2, 0))


# -- report of a node -------------------------------------------------------------------------------------------


def node() -> Node:
    return Node("0123456789abcdef", "10.0.0.7", "seven", True, Machine(2, 0))


def answer(**changed: Any) -> Answer:
    report = NodeReport(
        versions(), runs=None, missing=[], free_bytes=2**40, scratch="/tmp/ray", scratch_share=0.5, autoscaler=None,
        time_s=1005.0,
    )  # fmt: skip
    return Answer(node(), replace(report, **changed), None, 1000.0, 1010.0)


def test_a_node_without_a_problem() -> None:
    assert node_problems(answer(), RUNS, versions()) == []


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"runs": "does not see what the driver wrote there"}, "delete in /shared/runs, does not see"),
        ({"versions": versions() | {"torch": "1.0"}}, "got torch 1.0 (driver: "),
        ({"versions": versions() | {"ray": None}}, "got ray none (driver: "),
        ({"missing": ["/data/x"]}, "must see the data, /data/x is not there"),
        ({"time_s": 1016.0}, "within 5 s of the driver's, got +6.0 s"),
        ({"time_s": 900.0}, "got -100.0 s"),
        ({"free_bytes": 2**29}, "must have 1 GB free, got 0.50 GB"),
        ({"scratch_share": 0.97}, "/tmp/ray must be at most 95 % full, got 97 %"),
    ],
)
def test_a_node_s_problem(changed: dict[str, Any], says: str) -> None:
    (problem,) = node_problems(answer(**changed), RUNS, versions())
    assert problem.startswith("node 10.0.0.7 (seven, 01234567): ")
    assert says in problem
    assert "; " in problem  # what to do


def test_a_node_without_a_report() -> None:
    silent = Answer(node(), None, "no answer within 12 s", 1000.0, 1012.0)
    (problem,) = node_problems(silent, RUNS, versions())
    assert "must answer a task, got: no answer within 12 s" in problem
    assert clock_offset(silent) is None


def test_clocks_and_versions_that_do() -> None:
    assert clock_offset(answer(time_s=1000.0)) == clock_offset(answer(time_s=1010.0)) == 0.0
    assert node_problems(answer(time_s=1014.0, free_bytes=None, scratch_share=None), RUNS, versions()) == []
    assert (
        disagreements({"python": "3.11.9", "torch": "2.14.1+cu130"}, {"python": "3.11.2", "torch": "2.14.1"})
        == []
    )
    assert disagreements({"python": "3.12.9"}, {"python": "3.11.2"}) == [("python", "3.12.9", "3.11.2")]


def test_a_runs_folder_seen_from_a_node(tmp_path: Path) -> None:
    (tmp_path / ".probe").write_text("word")
    assert storage_problem(Probe(str(tmp_path), None, ".probe", "word")) is None
    assert [path.name for path in tmp_path.iterdir()] == [".probe"]
    assert (
        storage_problem(Probe(str(tmp_path), None, ".probe", "other"))
        == "does not see what the driver wrote there"
    )
    assert (
        storage_problem(Probe(str(tmp_path), None, ".none", "word"))
        == "does not see what the driver wrote there"
    )
    (tmp_path / "file").touch()
    problem = storage_problem(Probe(str(tmp_path / "file"), None, ".probe", "word"))
    assert problem == "cannot write, read and delete there: Not a directory"


def test_a_runs_folder_in_a_store(tmp_path: Path) -> None:
    from pyarrow.fs import LocalFileSystem

    (tmp_path / ".probe").write_text("word")
    assert storage_problem(Probe(str(tmp_path), LocalFileSystem(), ".probe", "word")) is None
    assert [path.name for path in tmp_path.iterdir()] == [".probe"]
    assert storage_problem(Probe(str(tmp_path), LocalFileSystem(), ".none", "word")) is not None


def test_files_that_a_sweep_names(tmp_path: Path) -> None:
    folder, away = str(tmp_path), str(tmp_path / "away")
    pretrain = SimpleNamespace(checkpoint=away, init=None)
    spec: Any = SimpleNamespace(data={"name": "image_folder", "path": folder}, pretrain=pretrain)
    assert missing_here(spec) == [f"pretrain.checkpoint: {away} must be there, it is not; check the path"]
    assert paths_that_trials_read(spec) == (folder,)
    spec.data = {"name": "cifar", "path": away}
    assert [line.partition(":")[0] for line in missing_here(spec)] == ["data.path", "pretrain.checkpoint"]
    assert paths_that_trials_read(spec) == ()  # the driver hands its numbers over


def test_tables_that_a_sweep_names(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", [[1.0], [2.0]], ["x", "y"])
    spec: Any = SimpleNamespace(
        data={"name": "parquet", "path": str(tmp_path / "*.parquet")},
        pretrain=SimpleNamespace(checkpoint=None, init=None),
    )
    assert missing_here(spec) == []
    assert paths_that_trials_read(spec) == ()
    spec.data = {"name": "parquet", "path": str(tmp_path / "b*.parquet")}
    assert missing_here(spec) == [
        f"data.path: {tmp_path}/b*.parquet must be there, it is not; check the path"
    ]
    assert paths_that_trials_read(spec) == ()
    # Where a table holds paths alone, the trials read the files.
    rows = {"label": [0, 1], "image": ["0.png", "1.png"]}
    pq.write_table(pa.table(rows), tmp_path / "b.parquet")
    for k in range(2):
        (tmp_path / f"{k}.png").write_bytes(b"x")
    spec.data = {"name": "parquet", "path": str(tmp_path / "b.parquet"), "image": "image"}
    assert paths_that_trials_read(spec) == (str(tmp_path),)


def test_every_problem_without_a_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}")
    (tmp_path / "file").touch()
    arguments = ["doctor", str(SMOKE), "--address", "127.0.0.1:1", "--runs", str(tmp_path / "file" / "runs")]
    started = time.monotonic()
    assert main(arguments) == 4
    assert time.monotonic() - started < 20
    printed = capsys.readouterr()
    assert "3 problems" in printed.out
    for words in (
        "must be writable",
        f"MLflow at sqlite:///{tmp_path}",
        "Ray cluster at 127.0.0.1:1: must answer",
    ):
        assert words in printed.err


# -- the signal of batch systems --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGUSR1, 143), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_signals_that_drain(number: signal.Signals, code: int, tmp_path: Path) -> None:
    lease: Any = SimpleNamespace(
        lost=False,
        folder=RunFolder.local(tmp_path, "smoke"),
        holder=SimpleNamespace(token="t"),
    )
    before = signal.getsignal(number)
    drain = Drain(Progress(quiet=True), lease, lambda: None, RayStart.none().over)
    drain.listen()
    drain.at_once = False
    try:
        assert not drain.is_requested()
        signal.raise_signal(number)
        assert drain.is_requested()
        assert drain.exit_code == code
    finally:
        drain.restore()
    assert signal.getsignal(number) == before
