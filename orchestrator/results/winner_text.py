"""The winner in words: the file that ships, and why no row of a higher score on select won in its place."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.messages import counted
from orchestrator.records.types import BASELINE
from orchestrator.results.rows import (
    RUNGS,
    SELMIX,
    Bound,
    ObjectiveResult,
    RungChoice,
    Winner,
    approach_name,
)
from orchestrator.table import estimate, number, short, unit_of


def shipped_file(winner: Winner, metric: str, bounds: Sequence[Bound]) -> str:
    """State which file ships, and that its own value is the best of those that it was chosen from.

    Args:
        winner: of an objective.
        metric: that decides it.
        bounds: of the search.
    """
    own = estimate(winner.select[metric], unit_of(metric))
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


def reasons(result: ObjectiveResult, winner: Winner) -> list[str]:
    """State why rows of a higher score on select did not win; empty where there are none.

    Args:
        result: of an objective; one of an earlier version says nothing of it.
        winner: its winner.
    """
    found, own = [], winner.replicates.score
    others: list[RungChoice] = []
    for choice in result.rungs:
        is_own, by_folds = choice.rung == winner.rung, choice.chosen_by == "cross_fitted"
        if is_own and choice.reason:
            found.append(f"chosen on select: {choice.reason}")
        if by_folds and _score(result, choice.leader) > own:
            if is_own:
                found.append(f"chosen {_by_cross_fitting(result, winner.row or '', choice.leader)}")
            elif choice.best != choice.leader:
                how = _by_cross_fitting(result, choice.best, choice.leader)
                found.append(f"the best of the rung {choice.rung} is {_name_of(choice.best)}, {how}")
        if not (is_own and by_folds):
            others.append(choice)
    ahead = max(others, key=lambda choice: _score(result, choice.best), default=None)
    if ahead is not None and _score(result, ahead.best) > own:
        dearer = ", and dearer" if RUNGS.index(ahead.rung) >= RUNGS.index(winner.rung) else ""
        found.append(f"{_name_of(ahead.best)} is ahead on select by less than the margin{dearer}")
    return found


def _by_cross_fitting(result: ObjectiveResult, ours: str, theirs: str) -> str:
    """State the cross-fitted scores of two baselines, of which the second is ahead on select.

    Args:
        result: of the objective.
        ours: id of the row that was chosen by this score.
        theirs: id of the other one.
    """
    our_fit, their_fit = (result.baselines[_name_of(row)].cross_fitted for row in (ours, theirs))
    # For the type checker: rows that were compared by this score have one.
    if our_fit is None or their_fit is None or our_fit.score is None or their_fit.score is None:
        raise AssertionError(f"{ours} and {theirs} were compared by cross-fitted scores")
    unit = unit_of(result.metric)
    against = f"{number(their_fit.score, unit)} of {_name_of(theirs)}"
    if their_fit.violation:
        against += ", which breaks a bound there"
    elif their_fit.score >= our_fit.score:
        against += ", which is dearer and ahead by less than the margin"
    return (
        f"by its cross-fitted score over feedback + select ({number(our_fit.score, unit)} against {against})"
    )


def _score(result: ObjectiveResult, row: str) -> float:
    """Score on select of a row: of SelMix the mean over its fresh seeds."""
    means = {each.trial_id: each.score for each in result.finalists}
    baseline = result.baselines.get(_name_of(row))
    score = means.get(row) if baseline is None else baseline.score
    return float("-inf") if score is None else score


def _name_of(row: str) -> str:
    """Name of a row by its id: of a baseline, or SelMix with its trial."""
    name = short(row)
    return name.removeprefix(f"{BASELINE}/") if name.startswith(f"{BASELINE}/") else f"SelMix {name}"


def recommended_row(result: ObjectiveResult) -> tuple[str | None, str]:
    """The row that the verdict speaks for in place of the winner, by the name that a pin takes, and what it is.

    A row that is better than the winner; else the opponent that it is not told apart from, where that one is cheaper.
    None where there is neither: the winner is the row to pin.

    Args:
        result: of an objective.
    """
    verdict = result.verdict
    if verdict is None or verdict.margin is None:
        return None, ""
    if verdict.outcome == "worse":
        return verdict.worse_than[0], f"{approach_name(verdict.worse_than[0])} instead, which is better"
    named = verdict.outcome == "tied" or verdict.against in verdict.not_told_apart
    if verdict.outcome in ("tied", "undecided") and named and verdict.against_is_cheaper:
        return verdict.against, f"{approach_name(verdict.against)} instead, which is cheaper"
    return None, ""
