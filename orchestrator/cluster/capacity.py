"""Capacity of a cluster for trials, node by node, and with what its autoscaler may add."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.spec.sections import ResourceSection
from trainables.node import NodeKind

_EPS = 1e-9


@dataclass(frozen=True)
class Machine:
    """Resources that one node offers to Ray."""

    cpus: float
    gpus: float

    def bundles(self, resources: ResourceSection) -> int:
        """Workers of a trial that it holds at once; a share of a GPU lies on one GPU."""
        by_cpu = int(self.cpus / resources.cpu + _EPS)
        if not resources.gpu:
            return by_cpu
        if resources.gpu < 1:
            return min(by_cpu, int(self.gpus) * int(1 / resources.gpu + _EPS))
        return min(by_cpu, int(self.gpus / resources.gpu + _EPS))


@dataclass(frozen=True)
class Limits:
    """Nodes that an autoscaler may bring beside the head: their kinds, and ``most`` of all together."""

    kinds: tuple[NodeKind, ...]
    most: int

    def best(self, resources: ResourceSection) -> list[Machine]:
        """The machines that hold the most workers, as many as may be."""
        machines = [
            Machine(kind.cpus, kind.gpus) for kind in self.kinds for _ in range(min(kind.most, self.most))
        ]
        return sorted(machines, key=lambda machine: -machine.bundles(resources))[: self.most]


@dataclass(frozen=True)
class Capacity:
    """Machines of a cluster, and how far it may grow.

    Attributes:
        machines: alive now. head: the one of them that stays when the cluster shrinks.
        limits: of its autoscaler; None: it has none, or they are not known.
        grows: it has an autoscaler whose limits cannot be read.
    """

    machines: tuple[Machine, ...]
    head: Machine | None = None
    limits: Limits | None = None
    grows: bool = False

    def trials(self, resources: ResourceSection) -> int:
        """Trials that run at once when the cluster has grown as far as it may."""
        now = fits(resources, self.machines)
        if self.limits is None:
            return now
        head = [] if self.head is None else [self.head]
        return max(now, fits(resources, [*head, *self.limits.best(resources)]))

    def at_once(self, resources: ResourceSection, most: int | None) -> int:
        """Trials to ask for at once, ``most`` at most; one that does not fit yet makes an autoscaler start nodes."""
        known = self.trials(resources)
        if most is None:
            return known
        return most if self.grows else min(known, most)

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
    """Trials, with all their workers, that run at once on these machines, within the sweep's own bounds."""
    trials = sum(machine.bundles(resources) for machine in machines) // resources.workers
    if resources.max_cpus is not None:
        trials = min(trials, int(resources.max_cpus / (resources.cpu * resources.workers) + _EPS))
    if resources.max_gpus is not None and resources.gpu:
        trials = min(trials, int(resources.max_gpus / (resources.gpu * resources.workers) + _EPS))
    return trials


def exclusive_resources(resources: ResourceSection, machines: Iterable[Machine]) -> ResourceSection | None:
    """Resources of a trial beside whose workers nothing else of Ray runs: whole GPUs, or else all CPUs.

    Args:
        resources: that it takes otherwise.
        machines: alive now.
    Returns:
        None where it has no neighbours as it is, or can get no more.
    """
    machines = list(machines)
    if resources.gpu:
        wider = [resources.model_copy(update={"gpu": 1})] if resources.gpu < 1 else []
    else:
        most = int(max((machine.cpus for machine in machines), default=0))
        wider = [resources.model_copy(update={"cpu": cpus}) for cpus in range(most, resources.cpu, -1)]
    return next((each for each in wider if fits(each, machines) >= 1), None)


def shortage(resources: ResourceSection, capacity: Capacity) -> str | None:
    """The reason why not even one trial can run on a cluster, whatever it waits for; None where one can."""
    if capacity.trials(resources) >= 1:
        return None
    bounded = [name for name in ("max_cpus", "max_gpus") if getattr(resources, name) is not None]
    bounds = "".join(f", {name} {getattr(resources, name):g}" for name in bounded)
    return (
        f"resources: a trial must fit on the cluster, asks for cpu {resources.cpu:g} and gpu {resources.gpu:g} with "
        f"{resources.workers} worker(s), {capacity}{bounds}; lower resources.workers, resources.cpu or resources.gpu"
    )
