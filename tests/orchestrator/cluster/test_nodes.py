"""Nodes of a cluster: which are alive, and the report of each although others hang or fail."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.cluster import nodes as module
from orchestrator.cluster.capacity import Limits, Machine
from orchestrator.cluster.nodes import HEAD, Node, alive_nodes, cluster_capacity, query_nodes
from tests.orchestrator.cluster.fake_ray import HANGS, FakeRay, Task, listed
from trainables.node import AutoscalerConfig, NodeKind, Probe

PROBE = Probe("/runs", None, ".probe", "word")
KINDS = (NodeKind("gpu", 8.0, 2.0, 3),)


def node_id(name: str) -> str:
    """As Ray's own: hexadecimal digits."""
    return name.encode().hex().ljust(56, "0")


def at(task: Task) -> str:
    """Name of the node that a task is pinned to."""
    strategy = task.options["scheduling_strategy"]
    assert (strategy.soft, task.options["num_cpus"], task.options["max_retries"]) == (False, 0, 0)
    return bytes.fromhex(strategy.node_id).decode().rstrip("\0")


def nodes(*names: str) -> list[Node]:
    return [Node(node_id(name), f"10.0.0.{k}", name, k == 0, Machine(4, 0)) for k, name in enumerate(names)]


def test_the_head_stands_first_and_dead_nodes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        listed("c", NodeManagerAddress="10.0.0.3"), listed("b", NodeManagerAddress="10.0.0.2", resources={"GPU": 2.0}),
        listed("dead", Alive=False), listed("a", NodeManagerAddress="10.0.0.9", resources={HEAD: 1.0}),
        listed("bb", NodeManagerAddress="10.0.0.2", Resources={}),
    ]  # fmt: skip
    monkeypatch.setattr("ray.nodes", lambda: entries)
    found = alive_nodes()
    assert [node.node_id for node in found] == ["a", "b", "bb", "c"]
    assert [node.is_head for node in found] == [True, False, False, False]
    assert [node.machine for node in found] == [Machine(4, 0), Machine(4, 2), Machine(0, 0), Machine(4, 0)]
    assert str(found[0]) == "node 10.0.0.9 (host, a)"


def test_a_node_that_hangs_or_fails_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Any] = {
        "fine": "report", "broken": ValueError("Traceback (most recent call last):\n  File x\nOSError: disk gone\n \n"),
        "silent": HANGS, "mute": RuntimeError(),
    }  # fmt: skip
    fake = FakeRay(lambda task: answers[at(task)])
    monkeypatch.setattr(module, "ray", fake)
    found = query_nodes(nodes("silent", "broken", "fine", "mute"), PROBE, timeout_s=0.02)
    assert [(answer.node.host, answer.report, answer.problem) for answer in found] == [
        ("silent", None, "no answer within 0.02 s"), ("broken", None, "OSError: disk gone"), ("fine", "report", None),
        ("mute", None, "RuntimeError"),
    ]  # fmt: skip
    assert all(answer.sent_s <= answer.received_s for answer in found)
    assert [at(task) for task in fake.cancelled] == ["silent"]
    assert {task.arguments for task in fake.tasks} == {(PROBE,)}
    assert query_nodes([], PROBE) == []


@pytest.mark.parametrize(
    ("answer", "limits", "grows"),
    [
        (AutoscalerConfig(KINDS, 3), Limits(KINDS, 3), False), (AutoscalerConfig(unknown="KubeRay"), None, True),
        (None, None, False), (HANGS, None, False),
    ],
)  # fmt: skip
def test_limits_of_the_autoscaler_are_read_on_the_head_alone(
    monkeypatch: pytest.MonkeyPatch, answer: Any, limits: Limits | None, grows: bool
) -> None:
    head, other = listed(node_id("a"), 2.0, resources={HEAD: 1.0}), listed(node_id("b"))
    fake = FakeRay(lambda _: answer)
    fake.nodes = lambda: [other, head]  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "ray", fake)
    found = cluster_capacity()
    assert (found.machines, found.head) == ((Machine(2, 0), Machine(4, 0)), Machine(2, 0))
    assert (found.limits, found.grows) == (limits, grows)
    assert [at(task) for task in fake.tasks] == ["a"]
    fake.nodes = lambda: [other]  # type: ignore[attr-defined]
    assert (cluster_capacity().head, len(fake.tasks)) == (None, 1)
