"""The winner among all rows: one row of each cheap rung by its cross-fitted score, then the cheapest near the best.

Many rows of the rungs ``scores`` and ``head`` were tuned on select, where their scores are then somewhat too high.
Their cross-fitted scores are not, and rest on feedback + select: these decide which row stands for a rung. Across rungs
the scores on select decide, which the rows of every rung have. Verdicts are on select too, and their opponents are all
rows, whichever stand for their rungs.

Rows that are fitted on feedback + select (``post_hoc_bias_search_both``, ``last_layer_post_hoc_both``) are scored out
of fold in both places. Within their rung they are on equal terms with the others, as every fit lacks the judging fold.
Across rungs their score on select is that of fits on a part of the labels, rather too low for the model that ships.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from orchestrator.messages import counted
from orchestrator.records.types import CrossFittedScore
from orchestrator.results.candidates import Candidate
from orchestrator.results.rows import RUNGS, Rung, RungChoice

CROSS_FITTED: tuple[Rung, ...] = ("scores", "head")
"""Rungs whose rows are cross-fitted: fitting them anew for each fold takes seconds."""


def cheapest_near_best(
    candidates: Sequence[Candidate], score: Callable[[Candidate], float], margin: float
) -> Candidate:
    """The cheapest of the candidates whose score lies within the margin of the best one.

    Args:
        candidates: at least one.
        score: of a candidate, higher is better.
        margin: difference of scores that does not matter.
    """
    bar = max(score(each) for each in candidates) - margin
    return min((each for each in candidates if score(each) >= bar), key=lambda each: each.cheapness)


def choose_across_rungs(
    candidates: Sequence[Candidate], margin: float, bounded: bool
) -> tuple[Candidate, list[RungChoice]]:
    """Choose the winner: of the rows that stand for their rungs, the cheapest within the margin of the best on select.

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
    stand = {row for choice in choices for row in choice.rows}
    standing = [each for each in candidates if each.row in stand]
    return cheapest_near_best(standing, lambda each: each.score, margin), choices


def _within(rung: Rung, rows: Sequence[Candidate], margin: float, bounded: bool) -> RungChoice:
    """Choose the row that stands for a rung; all of them do where cross-fitted scores cannot choose.

    A row whose predictions out of fold break a bound of the search is not chosen, whatever its score.
    """
    ordered = sorted(rows, key=lambda each: each.cheapness)
    # Of equal ones the cheapest, which comes first.
    leader = max(ordered, key=lambda each: each.score)
    on_select = RungChoice(rung, "select", [each.row for each in ordered], leader.row)
    if rung not in CROSS_FITTED:
        return on_select
    if missing := _without_score(ordered, bounded):
        return replace(on_select, reason=missing)
    scores = {
        each.row: each.cross_fitted.score
        for each in ordered
        if each.cross_fitted is not None and each.cross_fitted.score is not None
        if not bounded or each.cross_fitted.violation == 0.0
    }
    if not scores:
        return replace(on_select, reason="no row of the rung meets the bounds out of fold")
    able = [each for each in ordered if each.row in scores]
    chosen = cheapest_near_best(able, lambda each: scores[each.row], margin)
    return RungChoice(rung, "cross_fitted", [chosen.row], leader.row)


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
