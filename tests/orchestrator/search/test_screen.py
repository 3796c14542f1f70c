"""The screen of a sweep in parts: whoever does them, in parts of whatever size, it finds what one program finds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.records.folder import RunFolder
from orchestrator.records.screen import ScreenRecord
from orchestrator.search import screen as module
from orchestrator.search.screen import screened_line
from orchestrator.search.screening import next_points, on_features, points_of, sizes
from orchestrator.search.screening import screened as screened_space
from orchestrator.spec.checks import load_spec
from orchestrator.table import unit_of
from selmix.config import FinetuneConfig
from selmix.metrics import MetricContext
from selmix.screen import screen
from selmix.screen.choice import choice_out_of_fold
from selmix.statistics.selection import SelectionRule, rank
from tests.command import SMOKE
from tests.selmix.screen.worlds import world
from trainables.screen import FoldJob, ScreenJob
from trainables.shared import Shared

OBJECTIVE, FOLDS, CONFIGS = "min_recall", 3, 8
RULE = SelectionRule(OBJECTIVE)
SPEC = load_spec(SMOKE, (f"screen.num_configs={CONFIGS}", "screen.promote=3", f"screen.folds={FOLDS}"))


class Workers:
    """Whoever does the parts, one after the other, the last one first; ``jobs`` are all that were done."""

    def __init__(self, **changed: Any) -> None:
        data, base = world()
        base = replace(base, **{name: value for name, value in changed.items() if name == "labels"})
        self.shared = Shared(data, {OBJECTIVE: base}, {OBJECTIVE: RULE}, threads=1, gpu=0)
        self.jobs: list[ScreenJob] = []

    def tasks(self, work: Callable[[Shared, Any, float], Any], jobs: Sequence[Any], what: str) -> list[Any]:
        assert what == f"screen of {OBJECTIVE}"
        self.jobs += jobs
        return [work(self.shared, job, 0.0) for job in reversed(jobs)][::-1]


def screened(folder: Path, workers: Workers, **changed: Any) -> tuple[ScreenRecord, list[dict[str, Any]]]:
    """Record and table of a screen."""
    runs, section = RunFolder.local(folder, "smoke"), SPEC.screen
    runs.create()
    assert section is not None
    spec = SPEC.model_copy(update={"screen": section.model_copy(update=changed)})
    data = world()[0]
    found = module.screen_objective(spec, runs, OBJECTIVE, RULE, MetricContext(data.train_counts), workers)
    rows = pq.read_table(runs.screen_table_path(OBJECTIVE)).drop_columns(["seconds"]).to_pylist()
    return found, rows


@pytest.mark.parametrize(("least", "judged"), [(8, 4), (3, 4), (1, 1), (2, 8)])
def test_parts_of_any_size_find_what_one_program_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int, judged: int
) -> None:
    monkeypatch.setattr(module, "LEAST_OF_A_PART", least)
    monkeypatch.setattr(module, "CROSS_FITTED", judged)
    workers = Workers()
    record, rows = screened(tmp_path, workers)
    (data, base), seed = world(), SPEC.search.seed
    points = next_points(SPEC, CONFIGS, [])
    configs = [FinetuneConfig(**on_features(SPEC, point).flat()) for point in points]
    whole = screen(
        data, base, OBJECTIVE, configs, [seed] * CONFIGS, RULE, promote=3, folds=FOLDS, cross_fit_best=judged
    )
    assert rows == whole.table().drop_columns(["seconds"]).to_pylist()
    assert [each.id for each in record.promoted] == [f"{OBJECTIVE}/screen/{k:04d}" for k in whole.promoted]
    context = MetricContext(data.train_counts)
    assert whole.fold_of is not None
    choice = choice_out_of_fold(whole.held_out, whole.fold_of, RULE, context)
    assert choice is not None
    assert record.choice.score == rank(RULE, choice[0], context)[1]
    assert record.choice.samples == len(data.feedback) + len(data.select)
    assert record.cost_s > 0
    folds = [job for job in workers.jobs if isinstance(job, FoldJob)]
    parts = [len(job.configs) for job in workers.jobs if not isinstance(job, FoldJob)]
    assert len(parts) == CONFIGS // least
    assert min(parts) >= least
    assert sum(len(job.configs) for job in folds) == judged * FOLDS


def test_generations_are_screened_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CROSS_FITTED", 2)
    workers = Workers()
    record, rows = screened(tmp_path, workers, generations=2)
    assert [row["id"] for row in rows] == [f"{number:04d}" for number in range(CONFIGS)]
    assert sum(row["cross_fitted"] is not None for row in rows) == 4
    first = sizes(CONFIGS, 2)[0]
    assert [type(job) for job in workers.jobs] == [ScreenJob, *[FoldJob] * FOLDS] * 2
    assert len(workers.jobs[0].configs) == first
    assert record.num_configs == CONFIGS


def test_what_cannot_be_cross_fitted_is_ranked_on_select_and_says_why(tmp_path: Path) -> None:
    record, rows = screened(tmp_path, Workers(labels=("train", "feedback")))
    assert record.choice.score is None
    assert record.choice.reason == "the base model was trained on feedback"
    assert {row["cross_fitted"] for row in rows} == {None}
    best = max(rows, key=lambda row: row["score"])
    assert record.promoted[0].id == f"{OBJECTIVE}/screen/{best['id']}"


@pytest.mark.parametrize("generations", [1, 2])
def test_a_space_of_a_few_points_is_screened_once_over(generations: int) -> None:
    spec = load_spec(
        SMOKE,
        (
            "parameters={policy: {values: [softmax, uniform]}, refresh_every: {values: [10, 20, 40]}}",
            "screen.num_configs=32",
            "screen.promote=2",
        ),
    )
    points: list[dict[str, Any]] = []
    for count in sizes(32, generations):
        points += next_points(spec, count, [(point, 0.5, 0.0) for point in points])
    shown = [(point["policy"], point["refresh_every"]) for point in points]
    assert sorted(shown) == [(policy, every) for policy in ("softmax", "uniform") for every in (10, 20, 40)]
    assert points_of(screened_space(spec)) == 6
    # A number is what it is, however it is written: the default 0.0 is the file's 0.
    spec = load_spec(
        SMOKE,
        (
            "parameters={policy: {values: [softmax, uniform]}, weight_decay: {values: [0, 0.001]}}",
            "screen.num_configs=32",
            "screen.promote=2",
        ),
    )
    shown = [(point["policy"], point["weight_decay"]) for point in next_points(spec, 32, [])]
    assert sorted(shown) == [(policy, decay) for policy in ("softmax", "uniform") for decay in (0.0, 0.001)]
    assert points_of(screened_space(SPEC)) == math.inf


def test_a_screen_that_found_nothing_says_so(tmp_path: Path) -> None:
    record, rows = screened(tmp_path, Workers())
    assert record.improved == sum(row["best_round"] > 0 for row in rows)
    assert "IMPROVED" not in screened_line(record, unit_of(OBJECTIVE))
    line = screened_line(replace(record, improved=0), unit_of(OBJECTIVE))
    assert "s of work; NONE IMPROVED ON ITS START; promoted" in line
    # Records of an earlier version do not know.
    assert "IMPROVED" not in screened_line(replace(record, improved=None), unit_of(OBJECTIVE))
