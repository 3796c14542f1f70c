"""`selmix plan`: the arithmetic of runs, seconds and bytes, from a probe that a test makes up."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.records.store import LocalStore
from orchestrator.spec.schema import spec_from_resolved
from orchestrator.verbs import plan as module
from orchestrator.verbs.plan import (
    RUN_OVERHEAD_S,
    START_S,
    PlanDocument,
    duration,
    megabytes,
    plan_document,
    plan_text,
)
from orchestrator.verbs.plan_probe import Memory, Probe
from selmix.baselines import baselines_for

PROBE = Probe(
    rounds_measured=3, rounds=20, trial_s=10.0, one_worker_trial_s=20.0, pretrain_s=5.0, weights_bytes=1000,
    table_bytes=10, memory=Memory("cpu", 10**6, 10**12, 10**6),
)  # fmt: skip
BASELINES = len(baselines_for(0))


def planned(
    monkeypatch: pytest.MonkeyPatch, runs: Path, probe: Probe = PROBE, **sections: object
) -> PlanDocument:
    """A plan on a machine of eight cores."""
    spec = spec_from_resolved({
        "version": 1, "name": "x", "data": {"name": "digits"}, "objectives": ["min_recall"],
        "parameters": {"lr": {"min": 0.01, "max": 0.1}}, "selection": {"replicates": 2, "finalists": 3}, **sections,
    })  # fmt: skip
    monkeypatch.setattr(module, "check_all", lambda *_: ("http://u:secret@h", SimpleNamespace(num_groups=0)))
    monkeypatch.setattr(module, "measure", lambda *_: probe)
    monkeypatch.setattr(module, "bytes_of", lambda _: 70_000_000)
    monkeypatch.setattr(module, "local_resources", lambda: (8.0, 0.0))
    return plan_document(spec, LocalStore(runs))


@pytest.mark.parametrize(
    ("sections", "trials", "replicates", "baselines", "at_once"),
    [
        ({}, 16, 4 * 2, 1, 8),
        ({"objectives": ["min_recall", "g_mean"]}, 32, 2 * 4 * 2, 2, 8),
        ({"compare": {"policy": ["softmax", "uniform", "greedy"]}}, 48, 3 * 4 * 2, 1, 8),
        ({"search": {"num_trials": 2}}, 2, 2 * 2, 1, 8),
        ({"search": {"method": "grid"}, "parameters": {"lr": {"values": [0.03, 0.1]}}}, 2, 2 * 2, 1, 8),
        ({"search": {"max_concurrent_trials": 3}}, 16, 8, 1, 3),
        ({"resources": {"workers": 2, "cpu": 2}}, 16, 8, 1, 2),
        ({"resources": {"cpu": 16}}, 16, 8, 1, 1),
    ],
)
def test_runs_are_those_of_the_file(
    sections: dict[str, object], trials: int, replicates: int, baselines: int, at_once: int,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    plan = planned(monkeypatch, tmp_path, **sections)
    assert (plan.trials, plan.replicates, plan.baselines) == (trials, replicates, baselines * BASELINES)
    assert plan.at_once == at_once
    # Every run leaves weights, a baseline one file per seed; trials and replicates a table of rounds too.
    assert plan.estimated_bytes == 1000 * (trials + replicates + 2 * baselines * BASELINES) + 10 * (
        trials + replicates
    )
    runs_s = (trials + replicates) * (10.0 + RUN_OVERHEAD_S) / at_once
    assert plan.estimated_s > START_S + 5.0 + runs_s


def test_nothing_is_written_and_no_credentials_are_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = planned(monkeypatch, tmp_path / "a" / "runs")
    assert plan.free_bytes > 0
    assert plan.tracking_uri == "http://h"
    assert list(tmp_path.iterdir()) == []


def test_more_at_once_takes_less_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Less the start and the base model, which happen once.
    one, two, eight, more = (
        planned(monkeypatch, tmp_path, search={"max_concurrent_trials": count}).estimated_s - START_S - 5.0
        for count in (1, 2, 8, 64)
    )
    assert one == pytest.approx(2 * two) == pytest.approx(8 * eight)
    assert more == eight


def test_heads_count_once_per_objective(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    many = dataclasses.replace(PROBE, heads_s=800.0)
    plan = planned(monkeypatch, tmp_path, many, objectives=["min_recall", "g_mean"])
    less = planned(monkeypatch, tmp_path, objectives=["min_recall", "g_mean"])
    assert plan.estimated_s - less.estimated_s == pytest.approx(2 * 800.0 / 8)
    assert "heads at least 800.0 s of work per objective" in plan_text(plan, None)
    assert "heads" not in plan_text(less, None)


def test_the_data_count_where_processes_find_them_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cheap, small = {"rungs": ["scores", "head"]}, {"resources": {"stage_above_mb": 69}}
    plan = planned(monkeypatch, tmp_path, **cheap)
    # With a GPU everything is done in one process.
    alone = planned(monkeypatch, tmp_path, **cheap, resources={"gpu": 1})
    assert plan.estimated_bytes - alone.estimated_bytes == 70_000_000
    on_ray, in_memory = planned(monkeypatch, tmp_path, **small), planned(monkeypatch, tmp_path)
    assert on_ray.estimated_bytes - in_memory.estimated_bytes == 70_000_000


def test_cheap_rungs_are_planned_as_they_are_launched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cheap = {"rungs": ["scores", "head"]}
    monkeypatch.setattr("orchestrator.cluster.local_pool.MOST", 3)
    assert planned(monkeypatch, tmp_path, **cheap).at_once == 3
    # The search bounds its own trials, and a GPU is used by one process.
    assert planned(monkeypatch, tmp_path, **cheap, search={"max_concurrent_trials": 2}).at_once == 3
    assert planned(monkeypatch, tmp_path, **cheap, resources={"gpu": 0.25}).at_once == 1
    assert planned(monkeypatch, tmp_path, **cheap, resources={"max_cpus": 2}).at_once == 2
    large = dataclasses.replace(PROBE, memory=Memory("cpu", 5 * 10**9, 12 * 10**9, 2))
    (warning,) = (
        each for each in planned(monkeypatch, tmp_path, large, **cheap).warnings if "memory" in each
    )
    assert "about 2 fit: set resources.max_cpus to 2, or" in warning


def test_the_screen_and_the_features_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Ranked in two pieces of ten seconds, judged in five of four.
    stages = [[10.0, 20.0], [4.0, 20.0]]
    screened = dataclasses.replace(PROBE, screen_s=40.0, screen_stages=stages, features_bytes=5_000_000)
    plan = planned(monkeypatch, tmp_path, screened, objectives=["min_recall", "g_mean"])
    less = planned(monkeypatch, tmp_path, objectives=["min_recall", "g_mean"])
    # However many workers there are, a stage takes as long as its longest piece.
    assert plan.estimated_s - less.estimated_s == pytest.approx(2 * (10.0 + 4.0))
    assert plan.estimated_bytes - less.estimated_bytes == 5_000_000  # once, whatever is fine-tuned for
    assert "screen about 40.0 s of work per objective" in plan_text(plan, None)
    assert "screen" not in plan_text(less, None)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h")]
)
def test_durations_have_one_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_have_one_unit() -> None:
    assert [megabytes(size) for size in (0, 1.6e6, 9.99e9, 1e10)] == ["0 MB", "2 MB", "9990 MB", "10 GB"]
