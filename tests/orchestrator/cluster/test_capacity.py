"""Capacity of a cluster for trials: against a search over all ways to place them, in words, and for one by itself."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cluster.capacity import Capacity, Limits, Machine, exclusive_resources, fits, shortage
from orchestrator.spec.sections import ResourceSection
from trainables.node import NodeKind

TENTHS = st.integers(1, 10)


def placed(machine: Machine, cpu: int, gpu_tenths: int) -> int:
    """Workers on a machine, placed one by one: each takes CPUs, and its tenths of the first GPU that has them left."""
    cpus, gpus, workers = int(machine.cpus), [10] * int(machine.gpus), 0
    while cpus >= cpu:
        free = [k for k, left in enumerate(gpus) if left >= gpu_tenths]
        if gpu_tenths and not free:
            break
        if gpu_tenths:
            gpus[free[0]] -= gpu_tenths
        cpus, workers = cpus - cpu, workers + 1
    return workers


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 12), st.integers(0, 4), st.integers(1, 4), st.one_of(st.just(0), TENTHS))
def test_workers_of_a_machine_are_those_that_can_be_placed(
    cpus: int, gpus: int, cpu: int, tenths: int
) -> None:
    """Shares are decimal fractions, whose quotients are rounded: no worker may be lost by that."""
    machine, resources = Machine(cpus, gpus), ResourceSection(cpu=cpu, gpu=tenths / 10)
    assert machine.bundles(resources) == placed(machine, cpu, tenths)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 3)), min_size=1, max_size=3), st.integers(0, 5),
       st.integers(1, 3))  # fmt: skip
def test_an_autoscaler_adds_the_machines_that_hold_most(
    kinds: list[tuple[int, int]], most: int, cpu: int
) -> None:
    """Against all sets of machines within the limits."""
    limits = Limits(tuple(NodeKind(str(k), cpus, 0, own) for k, (cpus, own) in enumerate(kinds)), most)
    resources = ResourceSection(cpu=cpu)
    counts = itertools.product(*(range(own + 1) for _, own in kinds))
    held = max(
        sum(number * (cpus // cpu) for number, (cpus, _) in zip(chosen, kinds, strict=True))
        for chosen in counts if sum(chosen) <= most
    )  # fmt: skip
    assert fits(resources, limits.best(resources)) == held


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({}, 10),
        ({"max_gpus": 0.3}, 3),
        ({"max_cpus": 7}, 7),
        ({"max_gpus": 0.7, "workers": 2}, 3),
        ({"max_gpus": 0.05}, 0),
    ],
)
def test_bounds_of_a_sweep_count_all_workers_of_a_trial(bounds: dict[str, Any], expected: int) -> None:
    assert fits(ResourceSection(gpu=0.1, **bounds), [Machine(32, 1)]) == expected


def test_a_cluster_that_is_larger_than_its_autoscaler_keeps_what_it_has() -> None:
    machines = (Machine(2, 0), Machine(16, 0), Machine(16, 0))
    shrunk = Capacity(machines, machines[0], Limits((NodeKind("small", 4, 0, 2),), 2))
    assert shrunk.trials(ResourceSection()) == 34
    assert Capacity(machines[:1], machines[0], shrunk.limits).trials(ResourceSection()) == 2 + 2 * 4
    assert (
        Capacity(machines[:1], None, shrunk.limits).trials(ResourceSection()) == 2 * 4
    )  # the head is not known
    assert [shrunk.at_once(ResourceSection(), bound) for bound in (None, 3, 99)] == [34, 3, 34]


def test_a_shortage_names_the_request_the_capacity_and_the_bounds() -> None:
    wanted = ResourceSection(cpu=2, gpu=0.5, workers=3, max_cpus=4, max_gpus=8.0)
    assert shortage(wanted, Capacity((Machine(16, 2),))) == (
        "resources: a trial must fit on the cluster, requests cpu 2 and gpu 0.5 with 3 workers, there are cpu 16 and "
        "gpu 2, max_cpus 4, max_gpus 8; lower resources.workers, resources.cpu or resources.gpu"
    )
    assert shortage(wanted.model_copy(update={"max_cpus": 6}), Capacity((Machine(16, 2),))) is None


@pytest.mark.parametrize(
    ("requested", "machines", "cpu", "gpu"),
    [
        ({"gpu": 0.25}, [Machine(8, 2)], 1, 1),
        ({"gpu": 0.25, "max_gpus": 0.5}, [Machine(8, 2)], None, None),
        ({"gpu": 0.25, "workers": 2}, [Machine(8, 2)], 1, 1),
        ({"gpu": 0.25, "workers": 2}, [Machine(8, 1)], None, None),
        ({"gpu": 1}, [Machine(8, 2)], None, None),
        ({}, [Machine(2, 0), Machine(8, 0)], 8, 0),
        ({"cpu": 8}, [Machine(8, 0)], None, None),
        ({"workers": 2}, [Machine(8, 0)], 4, 0),
        ({"max_cpus": 3}, [Machine(8, 0)], 3, 0),
        ({}, [], None, None),
    ],
)
def test_resources_of_an_exclusive_run(
    requested: dict[str, Any], machines: list[Machine], cpu: int | None, gpu: float | None
) -> None:
    wider = exclusive_resources(ResourceSection(**requested), machines)
    assert (wider and wider.cpu, wider and wider.gpu) == (cpu, gpu)
