"""The winner among all rows: rows of a cheap rung are compared by their cross-fitted scores, others by those on select.

Many rows of the rungs ``scores`` and ``head`` were tuned on select, where their scores are then somewhat too high.
Their cross-fitted scores are not, and rest on feedback + select: within such a rung they decide. Across rungs the
scores on select do, which the rows of every rung have. So the winner is the cheapest row that lies within the margin of
the best of its own rung and, on select, of the best of every other rung. Where no row is cross-fitted this is the
cheapest within the margin of the best on select. Verdicts are on select too, against all rows that may oppose.

Rows that are fitted on feedback + select (``post_hoc_bias_search_both``, ``last_layer_post_hoc_both``) are scored out
of fold in both places. Within their rung they are on equal terms with the others, as every fit lacks the judging fold.
Across rungs their score on select is that of fits on a part of the labels, if anything too low for what ships.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from orchestrator.messages import counted, unimproved
from orchestrator.records.types import CrossFittedScore
from orchestrator.results.candidates import Candidate
from orchestrator.results.rows import (
    ChosenBy,
    RungChoice,
    RungStep,
    ScreenSummary,
    approach_name,
    name_of_row,
)
from orchestrator.table import difference, number, unit_of
from selmix.rungs import RUNGS, Rung

CROSS_FITTED: ChosenBy = "cross_fitted"
SELECT: ChosenBy = "select"

CROSS_FITTED_RUNGS: tuple[Rung, ...] = ("scores", "head")
"""Rungs whose rows are cross-fitted: fitting them anew for each fold takes seconds."""


def choose_across_rungs(
    candidates: Sequence[Candidate], margin: float, bounded: bool
) -> tuple[Candidate, list[RungChoice]]:
    """Choose the winner, see above.

    Args:
        candidates: all rows that may win, at least one.
        margin: difference of scores that does not matter, within a rung and across them.
        bounded: True if the search has bounds.
    Returns:
        The winner, and the choice within each rung that has a candidate, from the cheapest rung on.
    """
    choices = [
        _within(rung, rows, margin, bounded)
        for rung in RUNGS
        if (rows := [each for each in candidates if each.rung == rung])
    ]
    by_row = {each.row: each for each in candidates}
    able = []
    for choice in choices:
        others = [by_row[other.best].score for other in choices if other is not choice]
        able += [by_row[row] for row in choice.rows if all(by_row[row].score >= s - margin for s in others)]
    # Not empty: of the best rows of all rungs the one that is highest on select is able.
    return min(able, key=lambda each: each.cheapness), choices


def _within(rung: Rung, rows: Sequence[Candidate], margin: float, bounded: bool) -> RungChoice:
    """Choose the rows of a rung that lie within the margin of its best, by the score that is compared in this rung.

    A row whose predictions out of fold break a bound of the search is none of them, whatever its cross-fitted score.
    """
    on_select = {each.row: each.score for each in rows}
    scores, chosen_by, reason = on_select, SELECT, ""
    if rung in CROSS_FITTED_RUNGS:
        reason = _without_score(rows, bounded)
        meeting = {
            each.row: each.cross_fitted.score
            for each in rows
            if each.cross_fitted is not None and each.cross_fitted.score is not None
            if not bounded or each.cross_fitted.violation == 0.0
        }
        if not reason and not meeting:
            reason = "no row of the rung meets the bounds out of fold"
        if not reason:
            scores, chosen_by = meeting, CROSS_FITTED
    # From the cheapest on: of equal scores the cheaper one is the best.
    ordered = sorted(rows, key=lambda each: each.cheapness)
    able = [each.row for each in ordered if each.row in scores]
    best = max(able, key=lambda row: scores[row])
    near = [row for row in able if scores[row] >= scores[best] - margin]
    leader = max(ordered, key=lambda each: each.score).row
    return RungChoice(rung, chosen_by, near, best, leader, reason)


def _without_score(rows: Sequence[Candidate], bounded: bool) -> str:
    """State which rows have no cross-fitted score that may choose, and why; empty where all have one."""
    lacking: dict[str, list[str]] = {}
    for each in rows:
        if reason := _why_without_score(each.cross_fitted, bounded):
            lacking.setdefault(reason, []).append(each.name)
    return "; ".join(f"{_first_of(names)}: {reason}" for reason, names in lacking.items())


def _first_of(names: Sequence[str]) -> str:
    return f"{names[0]} and {counted(len(names) - 1, 'other')}" if len(names) > 1 else names[0]


def _why_without_score(found: CrossFittedScore | None, bounded: bool) -> str:
    if found is None:
        return "no score out of fold is on record"
    if found.score is None:
        return found.reason
    # Only a record by an earlier version has a score without it.
    return "its score out of fold knows no bounds" if bounded and found.violation is None else ""


def step_line(objective: str, metric: str, step: RungStep) -> str:
    """State what a rung gave: its best row, what it added over the rungs below, and the room that is left.

    Args:
        objective: of the sweep.
        metric: that decides it.
        step: of the rung.
    """
    unit = unit_of(metric)
    best = f"{objective}: rung {step.rung}: best {approach_name(step.approach)}, "
    if step.cross_fitted is not None:
        best += f"cross-fitted {number(step.cross_fitted, unit)}, "
    best += f"score {number(step.score, unit)}"
    added = ""
    if step.added is not None:
        over = name_of_row(step.over or "")
        added = f"; {over} below it: {difference(step.added, unit)}{unit.difference} on select"
    wins = ""
    if step.wins != step.best:
        # What already won below goes on winning; another row takes over because it is the cheapest that is near.
        how = "still wins" if step.wins == step.over else "wins: it is cheaper, and within the margin"
        wins = f"; {name_of_row(step.wins)} {how}"
    room = ""
    if step.room is not None:
        # From the value, which the score is not.
        room = f"; room above its {metric} on select {number(step.room, unit)}{unit.difference}"
    # Where an added gain is known its half-width says what these samples can tell apart.
    if step.room is not None and step.added is not None:
        told = step.added.value - step.added.low
        if told >= step.room:
            room += ", less than these samples can tell apart: a dearer rung cannot show that it pays"
        else:
            room += f", of which less than about {number(told, unit)} is not told apart on these samples"
    return f"{best}{added}{wins}; {step.spent_s:.1f} s of work{room}"


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's correlation of pairs of scores, ties by their mean ranks; None of fewer than three, or without spread.

    Args:
        pairs: of two scores each.
    """
    if len(pairs) < 3:
        return None
    first, second = (_ranks([pair[side] for pair in pairs]) for side in (0, 1))
    try:
        return statistics.correlation(first, second)
    except statistics.StatisticsError:  # all of one side are equal
        return None


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1 on, equal values at the mean of theirs."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


def screen_text(metric: str, screen: ScreenSummary) -> str:
    """State what a screen did, and how its order compares with that of full runs."""
    unit = unit_of(metric)
    ids = ", ".join(each.rpartition("/")[2] for each in screen.promoted) or "none"
    text = f"{screen.num_configs} heads, {screen.cost_s:.0f} s of work{unimproved(screen.improved)}; promoted {ids}"
    if screen.choice.score is not None:
        text += f"; the choice scores {number(screen.choice.score, unit)} out of fold"
    elif screen.choice.reason:
        text += f"; no score out of fold: {screen.choice.reason}"
    if screen.rank_correlation is not None:
        text += f"; rank correlation with {len(screen.trials)} full runs {screen.rank_correlation:+.2f}"
    return text


def climb_text(metric: str, climb: Sequence[RungStep]) -> str:
    """State what each rung added over those below it, and for how much of their work; on select, so optimistic.

    Args:
        metric: that decides the objective.
        climb: its rungs, at least one.
    """
    unit, parts, spent_s = unit_of(metric), [], 0.0
    for step in climb:
        text = f"{step.rung}: {approach_name(step.approach)} {number(step.score, unit)}"
        if step.added is not None:
            text += f", {difference(step.added, unit)}{unit.difference} over {name_of_row(step.over or '')}"
            text += f" for {step.spent_s / spent_s:.1f} x the work so far" if spent_s > 0.0 else ""
        parts.append(text)
        spent_s += step.spent_s
    # One chose within the cheap rungs; across rungs, and above them, the other does.
    within = " and ".join(step.rung for step in climb if step.cross_fitted is not None)
    chosen = f"where they were chosen{f'; within {within} the cross-fitted score chose' if within else ''}"
    return f"{'; '.join(parts)} (scores on select, {chosen})"
