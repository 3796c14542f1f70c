"""Document of the doctor: every node examined, every problem once, and nothing left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cluster import doctor, nodes, ray_session
from orchestrator.cluster.address import Cluster
from orchestrator.cluster.capacity import Machine
from orchestrator.cluster.doctor import DoctorDocument, Patience, check_cluster, doctor_document, doctor_text
from orchestrator.cluster.node_checks import NodeRow
from orchestrator.cluster.nodes import Answer, Node
from orchestrator.errors import PreflightError
from orchestrator.records.store import LocalStore
from orchestrator.spec.checks import load_spec
from tests.command import SMOKE
from trainables.node import NodeReport, Probe, storage_problem, versions


@dataclass
class Nodes:
    """A cluster that its test describes: nodes, what each reports, and a clock that only sleeping moves."""

    alive: list[Node]
    changed: dict[str, Any] = field(default_factory=dict)
    late: list[Node] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    now: float = 0.0

    def query(self, asked: list[Node], probe: Probe) -> list[Answer]:
        self.probes.append(probe)
        report = NodeReport(versions(), storage_problem(probe), [], 2**40, None, None, None, 5.0)
        return [Answer(node, replace(report, **self.changed), None, 0.0, 10.0) for node in asked]

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.alive = [*self.alive, *self.late]
        self.late = []


def node(number: int, cpus: float = 4) -> Node:
    return Node(f"{number:016x}", f"10.0.0.{number}", f"host{number}", number == 1, Machine(cpus, 0))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    made = Nodes([node(1), node(2)])
    outside: Callable[..., Any] = lambda *_: contextlib.nullcontext()  # noqa: E731
    for name in ("connected", "ray_environment"):
        monkeypatch.setattr(ray_session, name, outside)
    monkeypatch.setattr(nodes, "alive_nodes", lambda: made.alive)
    monkeypatch.setattr(nodes, "query_nodes", made.query)
    monkeypatch.setattr(doctor, "check_reachable", lambda _: None)
    monkeypatch.setattr(doctor, "time", SimpleNamespace(monotonic=lambda: made.now, sleep=made.sleep))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return made


def examined(runs: str = "runs", patience: Patience | None = None, *overrides: str) -> DoctorDocument:
    spec, store = load_spec(SMOKE, overrides), LocalStore(Path(runs))
    return doctor_document(spec, store, Cluster("head:6379"), patience or Patience())


def test_a_cluster_that_has_everything(cluster: Nodes, tmp_path: Path) -> None:
    found = examined()
    assert (found.problems, found.cluster, found.trials_at_once) == ([], "head:6379", 8)
    assert found.capacity == "there are cpu 8 and gpu 0 on 2 nodes, the largest with cpu 4 and gpu 0"
    assert (found.runs, found.tracking_uri) == (f"{tmp_path}/runs", f"sqlite:///{tmp_path}/runs/mlflow.db")
    row = NodeRow(
        node(1).node_id, "10.0.0.1", "host1", True, 4, 0, versions(), "as the driver's", "ok", 2**40, 0.0, []
    )
    assert found.nodes[0] == row
    assert list(tmp_path.iterdir()) == []  # the nodes read a file there, which is gone with its folder
    examined()
    assert (
        len({probe.token for probe in cluster.probes}) == 2
    )  # one that is still seen is no proof of shared storage
    assert doctor_document(None, LocalStore(tmp_path), Cluster()).trials_at_once is None


def test_nodes_that_are_late_are_waited_for_and_missing_ones_are_a_problem(cluster: Nodes) -> None:
    cluster.late = [node(3)]
    assert examined(patience=Patience(3, 60.0)).problems == []
    assert cluster.now < 60
    found = examined(patience=Patience(4, 7.0))
    (problem,) = found.problems
    assert problem.startswith(
        "Ray cluster at head:6379: 4 nodes must be alive, got 3 within 7 s; look at the logs"
    )
    assert len(found.nodes) == 3  # those that are alive are examined all the same


def test_all_problems_of_all_nodes_stand_together(cluster: Nodes, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cluster.changed = {"versions": versions() | {"torch": "1.0"}, "missing": ["/data"]}
    found = examined("file/runs", None, "resources.cpu=5")
    heads = [line.partition(":")[0] for line in found.problems]
    assert heads[0] == "file/runs/doctor"
    assert (
        heads.count("node 10.0.0.1 (host1, 00000000)") == heads.count("node 10.0.0.2 (host2, 00000000)") == 3
    )
    assert found.problems[-1].startswith("resources: a trial must fit on the cluster, requests cpu 5")
    assert len(set(found.problems)) == len(found.problems)
    assert [(row.agrees, row.runs, len(row.problems)) for row in found.nodes] == [
        ("torch 1.0", "not usable", 3)
    ] * 2
    assert found.trials_at_once == 0


def test_a_launch_is_refused_with_one_line_per_problem(cluster: Nodes, tmp_path: Path) -> None:
    spec, store = load_spec(SMOKE), LocalStore(tmp_path / "runs")
    check_cluster(spec, store, Cluster("head:6379"))
    cluster.changed = {"missing": ["/a", "/b"]}
    with pytest.raises(PreflightError) as error:
        check_cluster(spec, store, Cluster("head:6379"))
    lines = str(error.value).splitlines()
    assert [line.partition("the data, ")[2][:2] for line in lines] == ["/a", "/b"] * 2
    doctor.raise_all([])


def test_a_cluster_that_cannot_be_reached_is_one_problem_and_has_no_nodes(
    cluster: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_reachable(address: str) -> None:
        raise PreflightError(f"Ray cluster at {address}: must answer")

    monkeypatch.setattr(doctor, "check_reachable", check_reachable)
    found = examined(patience=Patience(1, 5.0))
    assert (found.problems, found.nodes, found.capacity) == (
        ["Ray cluster at head:6379: must answer"],
        [],
        None,
    )
    assert cluster.now == 5.0  # it was waited for


def lines_of(document: DoctorDocument) -> Iterator[str]:
    return (" ".join(line.split()) for line in doctor_text(document, None).splitlines())


def test_the_text_has_a_row_per_node_and_counts_the_problems(cluster: Nodes) -> None:
    found = examined()
    silent = replace(found.nodes[1], agrees="no answer", runs="no answer", free_bytes=None, clock_s=None)
    shown = list(
        lines_of(replace(found, nodes=[replace(found.nodes[0], clock_s=-61.0), silent], problems=["a"]))
    )
    assert shown[0].startswith("cluster head:6379: there are cpu 8")
    assert "10.0.0.1 (head) host1 4 0 ok 1024 GB as the driver's -61 s" in shown
    assert "10.0.0.2 host2 4 0 no answer - no answer -" in shown
    assert shown[-1] == "1 problem:"
    assert list(lines_of(found))[-1] == "everything is there"
    bare = DoctorDocument(cluster=None, runs="/r", tracking_uri="", problems=["a", "b"])
    assert list(lines_of(bare)) == [
        "cluster a private one on this machine", "runs /r", "mlflow no usable address", "2 problems:",
    ]  # fmt: skip
