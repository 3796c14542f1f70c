"""Nodes of the cluster that this driver is connected to: who they are, and the answer of each."""

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


@dataclass(frozen=True)
class Node:
    """A node that is alive."""

    node_id: str
    address: str
    host: str
    is_head: bool
    machine: Machine

    def __str__(self) -> str:
        return f"node {self.address} ({self.host}, {self.node_id[:8]})"


@dataclass(frozen=True)
class Answer:
    """Report of a node, between two readings of the driver's clock; or why it gave none."""

    node: Node
    report: NodeReport | None
    problem: str | None
    asked_s: float
    answered_s: float


def alive_nodes() -> list[Node]:
    """Nodes in the order of their addresses, the head first."""
    found = [
        Node(
            entry["NodeID"], entry["NodeManagerAddress"], entry["NodeManagerHostname"], HEAD in entry["Resources"],
            Machine(entry["Resources"].get("CPU", 0.0), entry["Resources"].get("GPU", 0.0)),
        )
        for entry in ray.nodes()  # type: ignore[no-untyped-call]
        if entry["Alive"]
    ]  # fmt: skip
    return sorted(found, key=lambda node: (not node.is_head, node.address, node.node_id))


def ask(nodes: Sequence[Node], probe: Probe, timeout_s: float = ANSWER_TIMEOUT_S) -> list[Answer]:
    """Every node's report, all at once; one that does not answer in time is told apart from one that fails.

    Args:
        nodes: to be asked.
        probe: the question.
        timeout_s: over all of them.
    """
    task = ray.remote(node_report)
    asked = time.time()
    waiting = {_on(task, node).remote(probe): node for node in nodes}
    answers: dict[str, Answer] = {}
    end = time.monotonic() + timeout_s
    while waiting and (left := end - time.monotonic()) > 0:
        done, _ = ray.wait(list(waiting), timeout=left)
        for reference in done:
            node = waiting.pop(reference)
            try:
                answers[node.node_id] = Answer(node, ray.get(reference), None, asked, time.time())
            except Exception as error:  # a boundary: whatever a worker there died of
                answers[node.node_id] = Answer(node, None, _last_line(error), asked, time.time())
    for reference, node in waiting.items():
        ray.cancel(reference, force=True)
        silent = f"no answer within {timeout_s:g} s"
        answers[node.node_id] = Answer(node, None, silent, asked, time.time())
    return [answers[node.node_id] for node in nodes]


def capacity(nodes: Sequence[Node], autoscaler: AutoscalerConfig | None) -> Capacity:
    """Capacity of the cluster now, and as far as it may grow.

    Args:
        nodes: alive now.
        autoscaler: limits as the head reports them; None: it has none.
    """
    machines = tuple(node.machine for node in nodes)
    head = next((node.machine for node in nodes if node.is_head), None)
    if autoscaler is None or autoscaler.unknown is not None:
        return Capacity(machines, head, grows=autoscaler is not None)
    return Capacity(machines, head, Limits(autoscaler.kinds, autoscaler.most) if autoscaler.kinds else None)


def cluster_capacity() -> Capacity:
    """Capacity of the cluster that this driver is connected to; its head is asked."""
    nodes = alive_nodes()
    heads = [node for node in nodes if node.is_head]
    if not heads:
        return capacity(nodes, None)
    reference = _on(ray.remote(autoscaler_config), heads[0]).remote()
    done, _ = ray.wait([reference], timeout=ANSWER_TIMEOUT_S)
    return capacity(nodes, ray.get(done[0]) if done else None)


def _on(task: Any, node: Node) -> Any:
    """The task pinned to a node; it takes no CPU, so that a busy node answers too."""
    return task.options(
        num_cpus=0, max_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
    )  # fmt: skip


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
