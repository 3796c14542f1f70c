"""What the probe of a plan says of memory."""

from __future__ import annotations

import re
import resource
from typing import Any

import pytest
import torch

from orchestrator.spec.sections import ResourceSection
from orchestrator.verbs.plan_probe import Memory, memory_of, memory_warnings, share_for

GPU = Memory("cuda", peak_bytes=18 * 10**9, device_bytes=80 * 10**9, fit=4)
SMALL_GPU = Memory("cuda", peak_bytes=10**11, device_bytes=80 * 10**9, fit=0)
CPU = Memory("cpu", peak_bytes=10**9, device_bytes=8 * 10**9, fit=8)


def test_the_peak_of_this_process() -> None:
    held = torch.ones(30_000_000)  # 120 MB
    measured = memory_of(torch.device("cpu"))
    assert held.sum() == 30_000_000
    assert measured.peak_bytes >= 120_000_000
    assert measured.peak_bytes <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert measured.fit == measured.device_bytes // measured.peak_bytes


@pytest.mark.parametrize(
    ("memory", "requested", "at_once", "says"),
    [
        (GPU, {"gpu": 0.25}, 4, None),
        (GPU, {"gpu": 0.2}, 5, "resources.gpu 0.2 is 16.0 of 80.0 GB; resources.gpu 0.25 is enough"),
        (GPU, {"gpu": 1}, 1, "4 trials would fit on a GPU: resources.gpu 0.25 packs them"),
        (GPU, {"gpu": 2}, 1, None),
        (SMALL_GPU, {"gpu": 1}, 1, "does not fit on this GPU: accumulate"),
        (CPU, {}, 8, None),
        (
            CPU,
            {},
            9,
            "9 workers at once take about 9.0 GB of 8.0; about 8 fit: set search.max_concurrent_trials to 8",
        ),
        (CPU, {"workers": 4}, 3, "12 workers at once .*max_concurrent_trials to 2"),
        (CPU, {"gpu": 1}, 9, None),  # this machine has no GPU: its memory says nothing of one
    ],
)
def test_what_is_said_of_memory(
    memory: Memory, requested: dict[str, Any], at_once: int, says: str | None
) -> None:
    measured = memory_warnings(memory, ResourceSection(**requested), at_once)
    if says is None:
        assert measured == []
    else:
        (line,) = measured
        assert re.search(says, line)


def test_shares_never_add_up_to_more_than_one_gpu() -> None:
    for fit in range(1, 101):
        assert fit * share_for(fit) <= 1 + 1e-9
