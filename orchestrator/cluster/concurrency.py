"""Concurrency limit of a sweep: how many trials to ask for at once, as the cluster is when it is asked."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable

from orchestrator.cluster.address import Cluster
from orchestrator.cluster.capacity import Capacity, Machine, shortage
from orchestrator.errors import PreflightError
from orchestrator.spec.sections import ResourceSection

LOOK_AGAIN_S = 2.0


class ConcurrencyLimit:
    """Limit that is asked whenever a run may be begun.

    What fits on the nodes, those that joined late too, or on what the autoscaler may add, within the sweep's own
    bounds. What another sweep holds now is not taken off: a trial takes all it needs at once or waits, so that sweeps
    which share a cluster wait for each other but never for ever.

    Args:
        resources: of a trial.
        most: trials at most; None: as many as fit.
        cluster: that this driver is connected to.
        report: is called with a line, once each time, when no node is left on which a trial fits.
    Raises:
        PreflightError: not even one fits at the beginning; Tune would wait for ever, in silence.
    """

    def __init__(
        self,
        resources: ResourceSection,
        most: int | None,
        cluster: Cluster,
        report: Callable[[str], None] = lambda text: None,
    ) -> None:
        from orchestrator.cluster.nodes import alive_nodes, capacity, cluster_capacity

        self._resources, self._most, self._report, self._reported = resources, most, report, False
        self._found = capacity(alive_nodes(), None) if cluster.is_private else cluster_capacity()
        self._looked = time.monotonic()
        problem = shortage(resources, self._found)
        if problem is not None:
            raise PreflightError(problem)

    def __call__(self) -> int:
        """At least one: where no node is left that fits, it waits for one, and an autoscaler sees that it does."""
        from orchestrator.cluster.nodes import alive_nodes

        now = time.monotonic()
        if now - self._looked > LOOK_AGAIN_S:
            self._looked = now
            machines = tuple(node.machine for node in alive_nodes())
            self._found = dataclasses.replace(self._found, machines=machines)
            problem = shortage(self._resources, self._found)
            if problem is not None and not self._reported:
                self._report(f"waiting for a node: {problem.removeprefix('resources: ')}")
            self._reported = problem is not None
        return max(1, self._found.at_once(self._resources, self._most))


def check_local_resources(resources: ResourceSection) -> None:
    """Check that what a trial takes exists on this machine; before anything is written or started.

    Raises:
        PreflightError: it does not.
    """
    problem = shortage(resources, Capacity((Machine(*local_resources()),)))
    if problem is not None:
        raise PreflightError(problem)


def local_resources() -> tuple[float, float]:
    """CPUs and GPUs that Ray will find here."""
    import torch

    return float(len(os.sched_getaffinity(0))), float(torch.cuda.device_count())
