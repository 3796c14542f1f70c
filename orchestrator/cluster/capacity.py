"""Capacity of a cluster for trials, node by node, and with what its autoscaler may add."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.messages import counted
from orchestrator.spec.sections import ResourceSection
from trainables.node import NodeKind

# Shares are decimal fractions (0.1, 0.3): without it a quotient just below a whole number loses a worker.
_EPS = 1e-9


@dataclass(frozen=True)
class Machine:
    """Resources that a node offers to Ray."""

    cpus: float
    gpus: float

    def bundles(self, resources: ResourceSection) -> int:
        """Number of workers that the machine holds at once.

        Args:
            resources: of a worker.
        """
        by_cpu = int(self.cpus / resources.cpu + _EPS)
        if not resources.gpu:
            return by_cpu
        # Ray places a share of a GPU on one GPU, so what is left of each GPU is lost: 0.6 fits once, not 1.67 times.
        if resources.gpu < 1:
            return min(by_cpu, int(self.gpus) * int(1 / resources.gpu + _EPS))
        return min(by_cpu, int(self.gpus / resources.gpu + _EPS))


@dataclass(frozen=True)
class Limits:
    """Limits of an autoscaler: the kinds of nodes that it may add to the head, and ``most`` of all together."""

    kinds: tuple[NodeKind, ...]
    most: int

    def best(self, resources: ResourceSection) -> list[Machine]:
        """Machines that together hold the most workers, up to the limits.

        Args:
            resources: of a worker.
        """
        # Machines hold workers independently of each other, so taking the largest first is optimal.
        machines = [
            Machine(kind.cpus, kind.gpus) for kind in self.kinds for _ in range(min(kind.most, self.most))
        ]
        return sorted(machines, key=lambda machine: -machine.bundles(resources))[: self.most]


@dataclass(frozen=True)
class Capacity:
    """Machines of a cluster, and how far it may grow.

    Attributes:
        machines: nodes that are alive.
        head: the one of them that stays when the cluster shrinks; None where it is not known.
        limits: of the autoscaler; None where there is none, or its limits are not known.
        grows: True if there is an autoscaler whose limits cannot be read.
    """

    machines: tuple[Machine, ...]
    head: Machine | None = None
    limits: Limits | None = None
    grows: bool = False

    def trials(self, resources: ResourceSection) -> int:
        """Number of trials that run at once when the cluster has grown as far as it may."""
        now = fits(resources, self.machines)
        if self.limits is None:
            return now
        head = [] if self.head is None else [self.head]
        # The nodes alive may be of other kinds than the autoscaler would choose, and hold more than it could add.
        return max(now, fits(resources, [*head, *self.limits.best(resources)]))

    def at_once(self, resources: ResourceSection, max_trials: int | None) -> int:
        """Number of trials to start at once.

        Args:
            resources: of a trial.
            max_trials: upper bound; None for as many as fit.
        """
        known = self.trials(resources)
        if max_trials is None:
            return known
        # Limits that cannot be read bound nothing: a trial that waits for a node is what makes an autoscaler add one.
        return max_trials if self.grows else min(known, max_trials)

    def __str__(self) -> str:
        cpus, gpus = sum(m.cpus for m in self.machines), sum(m.gpus for m in self.machines)
        text = f"there are cpu {cpus:g} and gpu {gpus:g}"
        if len(self.machines) > 1:
            largest = max(self.machines, key=lambda machine: (machine.gpus, machine.cpus))
            text += f" on {len(self.machines)} nodes, the largest with cpu {largest.cpus:g} and gpu {largest.gpus:g}"
        if self.limits is not None:
            kinds = [
                f"{kind.most} {kind.name} with cpu {kind.cpus:g} and gpu {kind.gpus:g}"
                for kind in self.limits.kinds
            ]
            text += (
                f"; its autoscaler adds at most {' or '.join(kinds) or 'nothing'} ({self.limits.most} in all)"
            )
        if self.grows:
            text += "; the limits of its autoscaler cannot be read: keep one node alive that fits"
        return text


def fits(resources: ResourceSection, machines: Iterable[Machine]) -> int:
    """Number of trials, with all their workers, that run at once on these machines.

    Args:
        resources: of a trial, with the bounds of the whole sweep (``max_cpus``, ``max_gpus``).
        machines: that the trials may use.
    """
    # The workers of a trial may lie on different nodes, so nodes are summed before they are divided into trials.
    trials = sum(machine.bundles(resources) for machine in machines) // resources.workers
    if resources.max_cpus is not None:
        trials = min(trials, int(resources.max_cpus / (resources.cpu * resources.workers) + _EPS))
    if resources.max_gpus is not None and resources.gpu:
        trials = min(trials, int(resources.max_gpus / (resources.gpu * resources.workers) + _EPS))
    return trials


def exclusive_resources(resources: ResourceSection, machines: Iterable[Machine]) -> ResourceSection | None:
    """Resources of an exclusive trial: whole GPUs, or else all CPUs, so that Ray places nothing beside its workers.

    Args:
        resources: of the trial otherwise.
        machines: nodes that are alive.
    Returns:
        The resources; None where the trial is exclusive as it is, or can get no more.
    """
    machines = list(machines)
    if resources.gpu:
        # A trial with GPUs is taken to be short of GPU memory; one on whole GPUs is exclusive there already.
        wider = [resources.model_copy(update={"gpu": 1})] if resources.gpu < 1 else []
    else:
        max_cpus = int(max((machine.cpus for machine in machines), default=0))
        # From all CPUs downwards: with several workers or under ``max_cpus`` a whole node may be more than fits.
        wider = [resources.model_copy(update={"cpu": cpus}) for cpus in range(max_cpus, resources.cpu, -1)]
    return next((each for each in wider if fits(each, machines) >= 1), None)


def shortage(resources: ResourceSection, capacity: Capacity) -> str | None:
    """Reason why not even one trial can ever run on a cluster; None where one can.

    Args:
        resources: of a trial.
        capacity: of the cluster.
    """
    if capacity.trials(resources) >= 1:
        return None
    bounded = [name for name in ("max_cpus", "max_gpus") if getattr(resources, name) is not None]
    bounds = "".join(f", {name} {getattr(resources, name):g}" for name in bounded)
    return (
        f"resources: a trial must fit on the cluster, requests cpu {resources.cpu:g} and gpu {resources.gpu:g} with "
        f"{counted(resources.workers, 'worker')}, {capacity}{bounds}; lower resources.workers, resources.cpu or "
        "resources.gpu"
    )
