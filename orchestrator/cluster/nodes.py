"""Nodes of the cluster that this driver is connected to, and the report of each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.cluster.capacity import Capacity, Limits, Machine
from trainables.node import AutoscalerConfig, NodeReport, Probe, autoscaler_config, node_report

ANSWER_TIMEOUT_S = 15.0
HEAD = "node:__internal_head__"
"""Resource by which Ray marks the head."""


@dataclass(frozen=True)
class Node:
    """Node that is alive.

    Attributes:
        node_id: Ray's id of the node.
        address: IP address.
        host: host name.
        is_head: True for the head of the cluster.
        machine: resources that the node offers to Ray.
    """

    node_id: str
    address: str
    host: str
    is_head: bool
    machine: Machine

    def __str__(self) -> str:
        return f"node {self.address} ({self.host}, {self.node_id[:8]})"


@dataclass(frozen=True)
class Answer:
    """Answer of a node, between two readings of the driver's clock.

    Attributes:
        node: that was queried.
        report: of the node; None where it gave none.
        problem: why there is no report; None where there is one.
        sent_s: driver's clock before the query, in seconds since the epoch.
        received_s: driver's clock after the answer, in seconds since the epoch.
    """

    node: Node
    report: NodeReport | None
    problem: str | None
    sent_s: float
    received_s: float


def alive_nodes() -> list[Node]:
    """Nodes that are alive, the head first, then in the order of their addresses."""
    nodes = [
        Node(
            entry["NodeID"], entry["NodeManagerAddress"], entry["NodeManagerHostname"], HEAD in entry["Resources"],
            Machine(entry["Resources"].get("CPU", 0.0), entry["Resources"].get("GPU", 0.0)),
        )
        for entry in ray.nodes()  # type: ignore[no-untyped-call]
        if entry["Alive"]
    ]  # fmt: skip
    return sorted(nodes, key=lambda node: (not node.is_head, node.address, node.node_id))


def query_nodes(nodes: Sequence[Node], probe: Probe, timeout_s: float = ANSWER_TIMEOUT_S) -> list[Answer]:
    """Collect the reports of all nodes at once.

    Args:
        nodes: to be queried.
        probe: sent to every node.
        timeout_s: seconds for all nodes together.
    Returns:
        One answer per node, in their order; a node that is late and one that fails have different problems.
    """
    task = ray.remote(node_report)
    sent_s = time.time()
    waiting = {_on(task, node).remote(probe): node for node in nodes}
    answers: dict[str, Answer] = {}
    end = time.monotonic() + timeout_s
    # By ray.wait and not by ray.get of all: a node that hangs must not hide the reports of the others.
    while waiting and (left := end - time.monotonic()) > 0:
        done, _ = ray.wait(list(waiting), timeout=left)
        for reference in done:
            node = waiting.pop(reference)
            try:
                answers[node.node_id] = Answer(node, ray.get(reference), None, sent_s, time.time())
            except Exception as error:  # a boundary: whatever a worker there died of
                answers[node.node_id] = Answer(node, None, _last_line(error), sent_s, time.time())
    for reference, node in waiting.items():
        # With force: a task that hangs in a system call of dead storage heeds no interrupt.
        ray.cancel(reference, force=True)
        silent = f"no answer within {timeout_s:g} s"
        answers[node.node_id] = Answer(node, None, silent, sent_s, time.time())
    return [answers[node.node_id] for node in nodes]


def capacity(nodes: Sequence[Node], autoscaler: AutoscalerConfig | None) -> Capacity:
    """Capacity of a cluster as it is, and as far as it may grow.

    Args:
        nodes: that are alive.
        autoscaler: limits as the head reports them; None where it has no autoscaler.
    """
    machines = tuple(node.machine for node in nodes)
    head = next((node.machine for node in nodes if node.is_head), None)
    if autoscaler is None or autoscaler.unknown is not None:
        return Capacity(machines, head, grows=autoscaler is not None)
    # An autoscaler without any kind of node to add is as good as none.
    return Capacity(machines, head, Limits(autoscaler.kinds, autoscaler.most) if autoscaler.kinds else None)


def cluster_capacity() -> Capacity:
    """Capacity of the cluster that this driver is connected to, with the autoscaler's limits as its head reports."""
    nodes = alive_nodes()
    heads = [node for node in nodes if node.is_head]
    if not heads:
        return capacity(nodes, None)
    # Ray keeps the limits in no place that a driver can read: they are in a file on the head.
    reference = _on(ray.remote(autoscaler_config), heads[0]).remote()
    done, _ = ray.wait([reference], timeout=ANSWER_TIMEOUT_S)
    return capacity(nodes, ray.get(done[0]) if done else None)


def _on(task: Any, node: Node) -> Any:
    """Pin a task to a node; it takes no CPU, so that a busy node answers too."""
    return task.options(
        num_cpus=0, max_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
    )  # fmt: skip


def _last_line(error: Exception) -> str:
    # Ray puts a worker's traceback into the text of its error: the cause stands in its last line.
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
