"""Memory and pre-training, as the probe of a plan has them."""

from __future__ import annotations

import itertools
import re
import resource
from typing import Any

import pytest
import torch

from orchestrator.build.data import load_data
from orchestrator.spec.schema import SweepSpec, spec_from_resolved
from orchestrator.spec.sections import ResourceSection
from orchestrator.verbs import plan_probe
from orchestrator.verbs.plan_probe import (
    HEAD_EVALUATIONS,
    PROBE_NUMBERS,
    Memory,
    head_seconds,
    memory_of,
    memory_warnings,
    pretrain_seconds,
    screen_stages,
    share_for,
)
from selmix.pretrain import Pretrainer, pretrain

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


@pytest.mark.parametrize(("largest", "epochs"), [(10, 3), (60, 3), (60, 1)])
def test_the_pre_training_is_told_from_some_of_its_steps(
    largest: int, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At half a second a step: as many as a whole pre-training takes, however many are timed."""
    now, original = [0.0], Pretrainer._step

    def step(self: Pretrainer, *arguments: Any) -> Any:
        now[0] += 0.5
        return original(self, *arguments)

    monkeypatch.setattr(Pretrainer, "_step", step)
    spec = SweepSpec.model_validate({
        "version": 1, "name": "a", "objectives": ("min_recall",), "model": {"name": "linear_head"},
        "data": {"name": "gaussians", "largest_class": largest, "feedback": 4, "select": 4, "test": 4},
        "pretrain": {"recipe": "erm", "epochs": epochs, "batch_size": 8},
    })  # fmt: skip
    data = load_data(spec)
    found = pretrain_seconds(spec, data, lambda: now[0])
    now[0] = 0.0
    pretrain("erm", spec.model.config, data, 0, spec.pretrain.settings)
    assert found == now[0] > 0
    checkpoint = spec.model_copy(
        update={"pretrain": spec.pretrain.model_copy(update={"checkpoint": "base.pt"})}
    )
    assert pretrain_seconds(checkpoint, data) == 0.0


def test_heads_cost_some_thousand_passes_over_all_samples() -> None:
    """Told from a part of them: a pass over all takes as many times as long as they are more."""
    ticks = itertools.count()
    seconds = {
        samples: head_seconds(samples, 200, 200, torch.device("cpu"), lambda: float(next(ticks)))
        for samples in (60_000, 600_000)
    }
    # The part is the same, and the clock says that its fit took a second.
    assert seconds[600_000] == pytest.approx(10 * seconds[60_000])
    part = PROBE_NUMBERS // (200 * 200)
    evaluations = HEAD_EVALUATIONS * 60_000 / part / seconds[60_000]
    assert evaluations == pytest.approx(round(evaluations))
    assert 2 < evaluations < 100


@pytest.mark.parametrize(
    ("section", "steps", "stages"),
    [
        # Of each generation the sizes of the parts that are ranked, then of those that are judged on each fold.
        ({"num_configs": 256, "folds": 5}, 400, [[128, 128], [32] * 5]),
        ({"num_configs": 20, "folds": 2}, 400, [[20], [20, 20]]),
        ({"num_configs": 300, "folds": 3, "generations": 2}, 80, [[150], [32] * 3, [150], [32] * 3]),
        ({"num_configs": 16384, "folds": 2}, 400, [[1024] * 16, [1024] * 4]),
    ],
)
def test_the_screen_is_told_from_the_beginnings_of_small_ones(
    section: dict[str, int], steps: int, stages: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a part costs by itself, by its configurations, by its steps and by both."""
    now, sizes = [0.0], set()

    def cost(configs: int, steps: int) -> float:
        return 0.5 + 0.01 * configs + 0.02 * steps + 0.001 * configs * steps

    def ranked(data: Any, base: Any, objective: str, configs: Any, *_: Any) -> None:
        assert data.train.inputs.shape == (len(data.train), 7)
        (taken,) = {config.steps for config in configs}
        sizes.add((len(configs), taken))
        now[0] += cost(len(configs), taken)

    monkeypatch.setattr(plan_probe, "ranked", ranked)
    spec = spec_from_resolved({
        "version": 1, "name": "x", "data": {"name": "digits"}, "objectives": ["min_recall"],
        "parameters": {"lr": {"min": 0.01, "max": 0.1}, "steps": {"value": steps}}, "screen": section,
    })  # fmt: skip
    found = screen_stages(spec, load_data(spec), 7, torch.device("cpu"), lambda: now[0])
    took = [[max(cost(size, steps), cost(32, 60)) for size in stage] for stage in stages]
    assert found == [pytest.approx([max(stage), sum(stage)]) for stage in took]
    assert sizes == {(8, 20), (8, 60), (32, 20), (32, 60)}


@pytest.mark.parametrize("points", [1, 2, 4])
def test_a_real_screen_of_a_space_of_a_few_points_is_timed_as_it_is(points: int) -> None:
    spec = spec_from_resolved({
        "version": 1, "name": "x", "data": {"name": "digits"}, "objectives": ["min_recall"],
        "parameters": {
            "policy": {"values": ["softmax", "uniform"][:points]},
            "weight_decay": {"values": [0, 0.001][: max(1, points // 2)]}, "steps": {"value": 8},
        },
        "screen": {"num_configs": 64},
    })  # fmt: skip
    stages = screen_stages(spec, load_data(spec), 7, torch.device("cpu"))
    assert len(stages) == 2
    assert all(0 < longest <= total for longest, total in stages)
