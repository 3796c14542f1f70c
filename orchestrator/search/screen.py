"""The screen of a sweep: generations of configurations on frozen features, ranked, the best promoted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.records.folder import RunFolder
from orchestrator.records.screen import PromotedConfig, ScreenRecord, write_table
from orchestrator.records.types import CrossFittedScore
from orchestrator.search.screening import next_points, on_features, sizes
from orchestrator.spec.schema import SweepSpec
from orchestrator.table import Unit, number
from selmix.config import FinetuneConfig
from selmix.metrics import MetricContext, Predictions
from selmix.screen.choice import choice_out_of_fold
from selmix.screen.promotion import parameter_distances, promoted
from selmix.statistics.selection import SelectionRule, rank
from trainables.screen import ScreenJob, ScreenPart

RunPart = Callable[[ScreenJob], ScreenPart]
"""Function that runs a part of a screen somewhere: in this process, or on a worker."""


CROSS_FITTED = 32
"""Configurations of a generation that are cross-fitted at least; of more than 256 it is an eighth.

All of them would cost as many screens as there are folds. Which ones these are select decides, also in the folds that
then judge them: their runs are made anew without the fold, but not this choice of an eighth.
"""


def screen_objective(
    spec: SweepSpec, folder: RunFolder, objective: str, rule: SelectionRule, context: MetricContext, run: RunPart
) -> ScreenRecord:  # fmt: skip
    """Screen the configurations of an objective, and write table and record.

    Args:
        spec: of the sweep; it has a screen.
        folder: of the sweep.
        objective: one of its objectives.
        rule: that ranks.
        context: of its metric.
        run: runs a part.
    """
    section = spec.screen
    if section is None:
        raise ValueError("screen: the sweep must have one")
    points: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    held_out: list[Predictions | None] = []
    fold_of, reason, cost_s = None, "", 0.0
    for count in sizes(section.num_configs, section.generations):
        told = [(point, *_told(result)) for point, result in zip(points, results, strict=True)]
        fresh = next_points(spec, count, told)
        flat = [on_features(spec, point).flat() for point in fresh]
        part = run(ScreenJob(
            objective, flat, spec.search.seed, section.folds, max(CROSS_FITTED, len(flat) // 8)
        ))  # fmt: skip
        points, results = points + fresh, [*results, *part.results]
        held_out += _predictions(part)
        fold_of, reason, cost_s = part.fold_of, part.reason, cost_s + part.seconds
    configs = [on_features(spec, point) for point in points]
    chosen = _promoted(configs, results, objective, section.promote)
    choice = CrossFittedScore(
        None, section.folds, 0, reason or "no configuration has predictions out of fold"
    )
    found = None if fold_of is None else choice_out_of_fold(held_out, fold_of, rule, context)
    if found is not None and fold_of is not None:
        missed, score = rank(rule, found[0], context)
        choice = CrossFittedScore(score, section.folds, len(fold_of), "", -missed)
    _write_table(folder, objective, spec.search.seed, configs, results, chosen)
    record = ScreenRecord(
        objective=objective,
        num_configs=len(configs),
        ended=dict(sorted(Counter(str(result["stop_reason"]) for result in results).items())),
        promoted=[
            PromotedConfig(
                f"{objective}/screen/{number:04d}", points[number], configs[number].flat(), results[number]["score"],
                results[number]["cross_fitted"],
            )
            for number in chosen
        ],
        choice=choice,
        cost_s=cost_s,
    )  # fmt: skip
    folder.save(folder.screen_path(objective), record)
    return record


def _told(result: dict[str, Any]) -> tuple[float | None, float]:
    """Score on select and violation, by which the next generation is chosen: all have these."""
    return result["score"], result["violation"] or 0.0


def _predictions(part: ScreenPart) -> list[Predictions | None]:
    if part.labels is None:
        return [None] * len(part.results)
    return [
        None if classes is None or sure is None else Predictions(part.labels, classes, sure, part.groups)
        for classes, sure in zip(part.predicted, part.confidence, strict=True)
    ]


def _promoted(
    configs: Sequence[FinetuneConfig], results: Sequence[dict[str, Any]], objective: str, count: int
) -> list[int]:
    """Numbers of the promoted: feasible ones first, by the score out of fold, those without one after them."""

    def key(number: int) -> tuple[bool, float, float, int]:
        score, violation = results[number]["cross_fitted"], results[number]["cross_fitted_violation"] or 0.0
        if score is None:
            score, violation = _told(results[number])
        return (
            results[number]["cross_fitted"] is not None, -violation, -math.inf if score is None else score, -number
        )  # fmt: skip

    able = [number for number, result in enumerate(results) if result["score"] is not None]
    order = sorted(able, key=key, reverse=True)
    return promoted(order, parameter_distances(configs, objective), count)


def _write_table(
    folder: RunFolder, objective: str, seed: int, configs: Sequence[FinetuneConfig],
    results: Sequence[dict[str, Any]], chosen: Sequence[int],
) -> None:  # fmt: skip
    places = {number: place for place, number in enumerate(chosen)}
    rows = [
        {"id": f"{number:04d}", "seed": seed, **config.flat(), **result, "promoted": places.get(number)}
        for number, (config, result) in enumerate(zip(configs, results, strict=True))
    ]
    write_table(folder, objective, rows)


def screened_line(record: ScreenRecord, unit: Unit) -> str:
    """State what a screen found."""
    best = ", ".join(each.id.rpartition("/")[2] for each in record.promoted) or "none"
    choice = record.choice
    if choice.score is None:
        found = f"not cross-fitted: {choice.reason}"
    else:
        found = f"the choice scores {number(choice.score, unit)} out of fold"
    return f"screened {record.num_configs} configurations in {record.cost_s:.1f} s; promoted {best}; {found}"
