"""The screen of a sweep: generations of configurations on frozen features, ranked, the best promoted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol, TypeVar

from torch import Tensor

from orchestrator.messages import unimproved
from orchestrator.records.folder import RunFolder
from orchestrator.records.screen import PromotedConfig, ScreenRecord, write_table
from orchestrator.records.types import CrossFittedScore, Settings
from orchestrator.search.screening import next_points, on_features, sizes
from orchestrator.spec.schema import SweepSpec
from orchestrator.table import Unit, number
from selmix.metrics import MetricContext, Predictions
from selmix.screen import Screened, ScreenResult
from selmix.screen.choice import choice_out_of_fold
from selmix.screen.cross_fit import CrossFit, cross_fit
from selmix.screen.promotion import promotion
from selmix.screen.screening import best_on_select, check_stands, with_cross_fitted
from selmix.statistics.selection import SelectionRule, rank
from trainables.screen import FoldJob, ScreenJob, judge_part, rank_part
from trainables.shared import Work

C = TypeVar("C")
J = TypeVar("J")
T = TypeVar("T")

CROSS_FITTED = 32
"""Configurations of a generation that are cross-fitted at least; of more than 256 it is an eighth.

All of them would cost as many screens as there are folds. Which ones these are select decides, also in the folds that
then judge them: their runs are made anew without the fold, but not this choice of an eighth.
"""

LEAST_OF_A_PART, PARTS = 128, 16
"""Configurations of a part at least, and parts of a generation at most.

Smaller parts cost more together: half of 256 by a ninth. Whatever the number of workers, the parts are the same.
"""


class Workers(Protocol):
    """Whoever does pieces of work, as :class:`orchestrator.run.execution.Executor`."""

    def tasks(self, work: Work[J, T], jobs: Sequence[J], what: str) -> list[T]:
        """Do pieces of work side by side where there is room, and return what it returned of each, in order."""


@dataclass(frozen=True)
class _Generation:
    """Configurations that were screened together.

    Attributes:
        rows: as they ended.
        held_out: predictions out of fold of those that were cross-fitted.
        fold_of: fold of each of these samples; None where none was.
        reason: why none was; empty where some were.
        seconds: of work.
    """

    rows: list[Screened]
    held_out: tuple[Predictions | None, ...]
    fold_of: Tensor | None
    reason: str
    seconds: float


def screen_objective(
    spec: SweepSpec, folder: RunFolder, objective: str, rule: SelectionRule, context: MetricContext, workers: Workers
) -> ScreenRecord:  # fmt: skip
    """Screen the configurations of an objective, and write table and record.

    Args:
        spec: of the sweep; it has a screen.
        folder: of the sweep.
        objective: one of its objectives.
        rule: that ranks.
        context: of its metric.
        workers: do the parts.
    Raises:
        ValueError: every configuration of a generation failed.
    """
    section = spec.screen
    if section is None:
        raise ValueError("screen: the sweep must have one")
    points: list[Settings] = []
    generations: list[_Generation] = []
    rows: list[Screened] = []
    for count in sizes(section.num_configs, section.generations):
        # By the scores on select, which all have.
        told = [(point, row.score, row.violation or 0.0) for point, row in zip(points, rows, strict=True)]
        fresh = next_points(spec, count, told)
        if not fresh:
            break
        job = ScreenJob(objective, [on_features(spec, point).flat() for point in fresh], spec.search.seed)
        generations.append(_generation(job, section.folds, rule, context, workers))
        # Numbered on over the generations.
        rows += [
            replace(row, id=f"{number:04d}") for number, row in enumerate(generations[-1].rows, len(rows))
        ]
        points += fresh
    chosen = promotion(rows, objective, section.promote)
    for place, row in enumerate(chosen):
        rows[row] = replace(rows[row], promoted=place)
    cost_s = sum(generation.seconds for generation in generations)
    write_table(folder, objective, ScreenResult(tuple(rows), tuple(chosen), "", cost_s).table())
    record = ScreenRecord(
        objective=objective,
        num_configs=len(rows),
        ended=dict(sorted(Counter(row.stop_reason for row in rows).items())),
        promoted=[
            PromotedConfig(
                f"{objective}/screen/{row.id}", points[place], row.config.flat(), row.score, row.cross_fitted
            )
            for place in chosen
            for row in [rows[place]]
            if row.score is not None
        ],
        choice=_choice(generations, section.folds, rule, context),
        cost_s=cost_s,
        improved=sum(bool(row.best_round) for row in rows),
    )
    folder.save(folder.screen_path(objective), record)
    return record


def _generation(
    job: ScreenJob, folds: int, rule: SelectionRule, context: MetricContext, workers: Workers
) -> _Generation:
    """Rank the configurations of a job on select, then cross-fit the best of them, each in parts."""
    what, count = f"screen of {job.objective}", len(job.configs)
    ranked = workers.tasks(
        rank_part, [replace(job, configs=part) for part in parts_of(job.configs, count)], what
    )
    rows = [row for part in ranked for row in part.rows]
    check_stands(rows)
    judged = best_on_select(rows, cross_fitted(count))
    parts = parts_of([job.configs[place] for place in judged], count)
    fits = workers.tasks(
        judge_part,
        [FoldJob(job.objective, part, job.seed, fold, folds) for part in parts for fold in range(folds)],
        what,
    )
    # The folds of a part stand side by side.
    fitted = _joined([cross_fit(fits[at : at + folds], rule, context) for at in range(0, len(fits), folds)])
    rows, held_out = with_cross_fitted(rows, judged, fitted)
    seconds = sum(part.seconds for part in ranked) + sum(fit.seconds for fit in fits)
    return _Generation(rows, held_out, fitted.fold_of, fitted.reason, seconds)


def _joined(parts: Sequence[CrossFit]) -> CrossFit:
    """Ranks of all parts; none, with the reason, where a part has none."""
    if reason := next((part.reason for part in parts if part.reason), ""):
        return CrossFit((), reason)
    return CrossFit(
        tuple(rank for part in parts for rank in part.ranks), "",
        tuple(each for part in parts for each in part.predictions), parts[0].fold_of if parts else None,
    )  # fmt: skip


def cross_fitted(count: int) -> int:
    """Configurations that are cross-fitted of a generation of so many."""
    return min(count, max(CROSS_FITTED, count // 8))


def parts_of(configs: Sequence[C], generation: int) -> list[list[C]]:
    """Configurations of a generation of a size, in parts of about equal sizes that workers do side by side."""
    if not configs:
        return []
    count = max(1, len(configs) // max(LEAST_OF_A_PART, math.ceil(generation / PARTS)))
    bounds = [round(len(configs) * part / count) for part in range(count + 1)]
    return [list(configs[start:end]) for start, end in pairwise(bounds)]


def _choice(
    generations: Sequence[_Generation], folds: int, rule: SelectionRule, context: MetricContext
) -> CrossFittedScore:
    """Score of the choice among all configurations out of fold; none, with the reason, where none was cross-fitted."""
    # The folds are those of the samples' contents, and so the same in every generation.
    fold_of = next((each.fold_of for each in generations if each.fold_of is not None), None)
    held_out = [predictions for each in generations for predictions in each.held_out]
    found = None if fold_of is None else choice_out_of_fold(held_out, fold_of, rule, context)
    if found is None or fold_of is None:
        reason = next((each.reason for each in generations if each.reason), "")
        return CrossFittedScore(None, folds, 0, reason or "no configuration has predictions out of fold")
    missed, score = rank(rule, found[0], context)
    return CrossFittedScore(score, folds, len(fold_of), "", -missed)


def screened_line(record: ScreenRecord, unit: Unit) -> str:
    """State what a screen found."""
    best = ", ".join(each.id.rpartition("/")[2] for each in record.promoted) or "none"
    choice = record.choice
    if choice.score is None:
        found = f"not cross-fitted: {choice.reason}"
    else:
        found = f"the choice scores {number(choice.score, unit)} out of fold"
    work = f"{record.cost_s:.1f} s of work{unimproved(record.improved)}"
    return f"screened {record.num_configs} configurations, {work}; promoted {best}; {found}"
