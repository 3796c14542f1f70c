"""Concurrency limit of a sweep: the number of trials to start at once, on the cluster as it is at that moment."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.cluster.address import Cluster
from orchestrator.cluster.capacity import Capacity, Machine, shortage
from orchestrator.errors import PreflightError
from orchestrator.spec.sections import ResourceSection

LOOK_AGAIN_S = 2.0
"""Seconds between two looks at the nodes; the limit is read more often than that."""


class ConcurrencyLimit:
    """Number of trials that may be under way at once; call it whenever a run may begin.

    It counts the trials that fit on the nodes, late ones included, or on what the autoscaler may add, within the
    sweep's own bounds. What another sweep holds is not subtracted: a trial takes all it needs at once or waits, so
    sweeps that share a cluster wait for each other, but never for ever.

    Args:
        resources: of a trial.
        max_trials: upper bound; None for as many as fit.
        cluster: that this driver is connected to.
        report: called with a line when no node is left on which a trial fits, once until one fits again.
    Raises:
        PreflightError: not even one trial fits at the beginning; Tune would wait for ever, in silence.
    """

    def __init__(
        self,
        resources: ResourceSection,
        max_trials: int | None,
        cluster: Cluster,
        report: Callable[[str], None] = lambda text: None,
    ) -> None:
        # Ray is imported here and not above: preflight reads this module on the way to a quick refusal.
        from orchestrator.cluster.nodes import alive_nodes, capacity, cluster_capacity

        self._resources, self._max_trials, self._report, self._reported = resources, max_trials, report, False
        # A private cluster has no autoscaler to be read.
        self._capacity = capacity(alive_nodes(), None) if cluster.is_private else cluster_capacity()
        self._looked_at = time.monotonic()
        problem = shortage(resources, self._capacity)
        if problem is not None:
            raise PreflightError(problem)

    def __call__(self) -> int:
        """Limit at this moment, at least one.

        Where no node is left that fits, one trial waits for a node, and an autoscaler sees it waiting.
        """
        from orchestrator.cluster.nodes import alive_nodes

        now = time.monotonic()
        if now - self._looked_at > LOOK_AGAIN_S:
            self._looked_at = now
            # A head that does not answer for a moment changes nothing; raised into Tune it would end the sweep.
            with contextlib.suppress(Exception):
                machines = tuple(node.machine for node in alive_nodes())
                # The autoscaler's limits stay as they were read: reading them takes a task on the head.
                self._capacity = dataclasses.replace(self._capacity, machines=machines)
            problem = shortage(self._resources, self._capacity)
            if problem is not None and not self._reported:
                self._report(f"waiting for a node: {problem.removeprefix('resources: ')}")
            self._reported = problem is not None
        return max(1, self._capacity.at_once(self._resources, self._max_trials))


def check_local_resources(resources: ResourceSection) -> None:
    """Check that a trial fits on this machine, before anything is written or started.

    Args:
        resources: of a trial.
    Raises:
        PreflightError: it does not fit.
    """
    problem = shortage(resources, Capacity((Machine(*local_resources()),)))
    if problem is not None:
        raise PreflightError(problem)


def local_resources() -> tuple[float, float]:
    """Numbers of CPUs and GPUs that Ray will find on this machine."""
    import torch

    # The CPUs of the affinity, as under Slurm or taskset, rather than all of the machine; of a container those
    # that its quota is worth, without the fraction, as Ray counts them.
    cpus = float(len(os.sched_getaffinity(0)))
    quota = cpu_quota()
    return cpus if quota is None else max(1.0, min(cpus, float(int(quota)))), float(torch.cuda.device_count())


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPUs that the kernel lets this container use; None without a limit.

    Args:
        root: where control groups are mounted; those of version 2 and of version 1 are read.
    """
    files = [[root / "cpu.max"], [root / "cpu" / "cpu.cfs_quota_us", root / "cpu" / "cpu.cfs_period_us"]]
    for names in files:
        try:
            quota, period = " ".join(name.read_text() for name in names).split()
            # Without a limit it is `max`, or -1.
            return float(quota) / float(period) if quota != "max" and float(quota) > 0 else None
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return None
