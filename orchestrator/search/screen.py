"""The screen of a sweep: generations of configurations on frozen features, ranked, the best promoted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from orchestrator.records.folder import RunFolder
from orchestrator.records.screen import PromotedConfig, ScreenRecord, write_table
from orchestrator.records.types import CrossFittedScore, Settings
from orchestrator.search.screening import next_points, on_features, sizes
from orchestrator.spec.schema import SweepSpec
from orchestrator.table import Unit, number
from selmix.metrics import MetricContext
from selmix.screen import Screened, ScreenResult
from selmix.screen.choice import choice_out_of_fold
from selmix.screen.promotion import promotion
from selmix.statistics.selection import SelectionRule, rank
from trainables.screen import ScreenJob

RunPart = Callable[[ScreenJob], ScreenResult]
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
    points: list[Settings] = []
    parts: list[ScreenResult] = []
    rows: list[Screened] = []
    for count in sizes(section.num_configs, section.generations):
        # By the scores on select, which all have.
        told = [(point, row.score, row.violation or 0.0) for point, row in zip(points, rows, strict=True)]
        fresh = next_points(spec, count, told)
        flat = [on_features(spec, point).flat() for point in fresh]
        parts.append(run(ScreenJob(
            objective, flat, spec.search.seed, section.folds, max(CROSS_FITTED, len(flat) // 8)
        )))  # fmt: skip
        # Numbered on over the generations.
        rows += [
            replace(row, id=f"{number:04d}", promoted=None)
            for number, row in enumerate(parts[-1].rows, len(rows))
        ]
        points += fresh
    chosen = promotion(rows, objective, section.promote)
    for place, row in enumerate(chosen):
        rows[row] = replace(rows[row], promoted=place)
    cost_s = sum(part.seconds for part in parts)
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
        choice=_choice(parts, section.folds, rule, context),
        cost_s=cost_s,
    )
    folder.save(folder.screen_path(objective), record)
    return record


def _choice(
    parts: Sequence[ScreenResult], folds: int, rule: SelectionRule, context: MetricContext
) -> CrossFittedScore:
    """Score of the choice among all configurations out of fold; none, with the reason, where none was cross-fitted."""
    # The folds are those of the samples' contents, and so the same in every part.
    fold_of = next((part.fold_of for part in parts if part.fold_of is not None), None)
    held_out = [each for part in parts for each in part.held_out]
    found = None if fold_of is None else choice_out_of_fold(held_out, fold_of, rule, context)
    if found is None or fold_of is None:
        reason = next((part.not_cross_fitted for part in parts if part.not_cross_fitted), "")
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
    return f"screened {record.num_configs} configurations in {record.cost_s:.1f} s; promoted {best}; {found}"
