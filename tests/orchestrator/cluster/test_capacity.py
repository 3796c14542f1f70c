"""Resources of an exclusive trial."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.cluster.capacity import Machine, exclusive_resources
from orchestrator.spec.sections import ResourceSection


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
