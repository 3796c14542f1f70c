"""The winner in words: the file that ships, and why no row of a higher score on select won in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.messages import counted
from orchestrator.results.rows import SELMIX, Bound, ObjectiveResult, Row, RungChoice, Winner
from orchestrator.table import estimate, percent, short


def shipped_file(winner: Winner, metric: str, bounds: Sequence[Bound]) -> str:
    """State which file ships, and that its own value is the best of those that it was chosen from.

    Args:
        winner: of an objective.
        metric: that decides it.
        bounds: of the search.
    """
    own = estimate(winner.select[metric])
    if winner.approach != SELMIX:
        if len(winner.replicates.seeds) < 2:
            return f"{winner.approach}, one model"
        best = _best_of(winner, str(len(winner.replicates.seeds)), bounds)
        return f"{winner.approach}, seed {winner.seed}: {own}, {best}, chosen here"
    place = f"{short(winner.trial_id)}, seed {winner.seed}, round {winner.round} ({winner.steps} steps)"
    seeds = counted(len(winner.replicates.seeds), "fresh seed")
    if winner.replicate_of is None:
        return f"{place}, {own} on its own seed; the table has its mean over {seeds}"
    return f"{place}: {own}, {_best_of(winner, seeds, bounds)}, chosen here; the table has their mean"


def _best_of(winner: Winner, seeds: str, bounds: Sequence[Bound]) -> str:
    """State by what the shipped file is the best of its seeds."""
    # An earlier version shipped the highest, whatever the bounds.
    if not bounds or winner.chosen_by is None:
        return f"highest of {seeds}"
    figures = winner.select
    broken = [b.shown for b in bounds if b.metric in figures and b.is_broken(figures[b.metric].value)]
    # The mean over the seeds meets every bound, but each seed may break another one.
    if broken:
        return f"nearest to the bounds of {seeds}, though it breaks {' and '.join(broken)}"
    return f"highest of {seeds} within the bounds"


def reasons(result: ObjectiveResult, winner: Winner, rows: Mapping[str, Row]) -> list[str]:
    """State why rows of a higher score on select did not win; empty where there are none.

    Args:
        result: of an objective; one of an earlier version says nothing of it.
        winner: its winner.
        rows: id -> row of the table.
    """
    # Of SelMix the mean over fresh seeds is compared, not the score of the search.
    means = {each.trial_id: each.score for each in result.finalists}
    scores = {name: row.score for name, row in rows.items() if row.score is not None} | means
    found: list[str] = []
    for choice in result.rungs:
        # Only where its rung had something to choose from.
        if choice.reason and choice.rung == winner.rung and len(choice.rows) > 1:
            found.append(f"chosen on select: {choice.reason}")
        if choice.chosen_by == "cross_fitted" and scores[choice.leader] > winner.replicates.score:
            found += _by_cross_fitting(choice, winner, rows)
    standing = [name for choice in result.rungs for name in choice.rows]
    best = max(standing, key=lambda name: scores[name], default=None)
    if best is not None and scores[best] > winner.replicates.score:
        found.append(f"the cheapest within the margin of the best score, that of {_name_of(rows[best])}")
    return found


def _by_cross_fitting(choice: RungChoice, winner: Winner, rows: Mapping[str, Row]) -> list[str]:
    """State why another row than the best one on select stands for a rung; empty where it is that one."""
    (chosen,) = choice.rows
    ours, theirs = rows[chosen].cross_fitted, rows[choice.leader].cross_fitted
    # For the type checker: rows that were chosen among by this score have one.
    if (
        chosen == choice.leader
        or ours is None
        or theirs is None
        or ours.score is None
        or theirs.score is None
    ):
        return []
    against = f"{percent(theirs.score)} of {_name_of(rows[choice.leader])}"
    if theirs.violation:
        against += ", which breaks a bound there"
    elif theirs.score >= ours.score:
        against += ", which is dearer and ahead by less than the margin"
    by = f"chosen by its cross-fitted score over feedback + select ({percent(ours.score)} against {against})"
    if chosen == winner.row:
        return [by]
    return [f"of the rung {choice.rung} {_name_of(rows[chosen])} stands, {by}"]


def _name_of(row: Row) -> str:
    return f"SelMix {short(row.id)}" if row.approach == SELMIX else row.approach
