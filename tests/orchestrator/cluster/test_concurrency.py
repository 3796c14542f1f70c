"""Concurrency limit of a sweep: its own share of a cluster, which may grow and shrink meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cluster import concurrency
from orchestrator.cluster.address import Cluster
from orchestrator.cluster.concurrency import ConcurrencyLimit
from orchestrator.errors import PreflightError
from orchestrator.spec.sections import ResourceSection


def test_a_sweep_s_share_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = {"NodeID": "a", "NodeManagerAddress": "10.0.0.1", "NodeManagerHostname": "a", "Alive": True}
    monkeypatch.setattr("ray.nodes", lambda: [alive | {"Resources": {"CPU": 32.0, "GPU": 8.0}}])
    assert ConcurrencyLimit(ResourceSection(), None, Cluster())() == 32
    assert ConcurrencyLimit(ResourceSection(max_cpus=6), None, Cluster())() == 6
    assert ConcurrencyLimit(ResourceSection(cpu=4, max_cpus=6), None, Cluster())() == 1
    assert ConcurrencyLimit(ResourceSection(gpu=0.5, max_gpus=2.0), None, Cluster())() == 4
    assert ConcurrencyLimit(ResourceSection(max_cpus=6), 2, Cluster())() == 2
    with pytest.raises(PreflightError, match="cpu 32 and gpu 8, max_cpus 2; lower"):
        ConcurrencyLimit(ResourceSection(cpu=4, max_cpus=2), None, Cluster())


def test_the_limit_grows_with_a_late_node_and_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    node = {
        "NodeManagerAddress": "10.0.0.1", "NodeManagerHostname": "a", "Alive": True,
        "Resources": {"GPU": 2.0, "CPU": 4.0},
    }  # fmt: skip
    nodes = [node | {"NodeID": "a"}]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    lines: list[str] = []
    limit = ConcurrencyLimit(ResourceSection(gpu=1), None, Cluster(), lines.append)
    assert limit() == 2
    nodes.append(node | {"NodeID": "b"})
    assert limit() == 2  # not looked at again so soon
    monkeypatch.setattr(concurrency, "LOOK_AGAIN_S", -1.0)
    assert limit() == 4
    assert lines == []
    nodes.clear()
    assert [limit(), limit()] == [1, 1]
    (text,) = lines
    assert text.startswith("waiting for a node: a trial must fit on the cluster, requests cpu 1 and gpu 1")


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "250000 100000\n"}, 2.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu.max": "what"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_a_container(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert concurrency.cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(("quota", "cpus"), [(None, 8.0), (2.5, 2.0), (0.5, 1.0), (64.0, 8.0)])
def test_a_machine_has_the_cpus_that_its_quota_is_worth(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, cpus: float
) -> None:
    monkeypatch.setattr(concurrency, "cpu_quota", lambda: quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert concurrency.local_resources()[0] == cpus
