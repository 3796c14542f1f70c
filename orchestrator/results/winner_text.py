"""The winner in words: verdict, shipped file, and why no row of a higher score on select won in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.messages import counted
from orchestrator.records.types import Figure
from orchestrator.results.rows import (
    SELMIX,
    Bound,
    ObjectiveResult,
    RungChoice,
    SweepResult,
    Verdict,
    Winner,
    approach_name,
    beyond,
    corrected_for,
    name_of_row,
    rests_on,
)
from orchestrator.table import difference, estimate, number, paragraph, sentence, short, unit_of
from selmix.rungs import RUNGS, Rung


def answer(result: ObjectiveResult) -> str:
    """State the verdict in a sentence."""
    verdict, winner = result.verdict, result.winner
    if winner is None:
        return "nothing can win"
    name = row_name(winner)
    unit = unit_of(result.metric)
    if verdict is None:
        best = f"the best row is {name}; there is no other of no more labels to compare it with"
        return f"{best}{beyond(result.more_labels, unit)}"

    def on_select(gap: Figure) -> str:
        return f"{difference(gap, unit)}{unit.difference} on select"

    gap, against = on_select(verdict.difference), approach_name(verdict.against)
    if verdict.margin is None:
        return _by_the_earlier_rule(verdict, name, gap)
    higher = beyond(verdict.more_labels, unit)
    cheaper = ", which is cheaper" if verdict.against_is_cheaper else ""
    rest = [other for other in verdict.not_told_apart if other != verdict.against]
    if verdict.outcome == "better":
        small = ", by less than the margin" if verdict.within_margin else ""
        if not higher:
            return (
                f"BETTER: {name} is better than every opponent{small}; the best of them is {against}: {gap}"
            )
        rows = counted(len(verdict.differences), "row")
        best = "" if len(verdict.differences) == 1 else "the best of them is "
        return f"BETTER: {name} is better than the {rows} of as few labels{small} ({best}{against}: {gap}){higher}"
    if verdict.outcome == "worse":
        are = "is" if len(verdict.worse_than) == 1 else "are"
        nearest = verdict.worse_than[0]
        gap = on_select(verdict.differences[nearest])
        return (
            f"WORSE: {opponent_names(verdict.worse_than)} {are} better than the chosen {name}: {name} minus "
            f"{approach_name(nearest)} is {gap}{higher}"
        )
    if verdict.outcome == "tied":
        return (
            f"TIED: {name} and its best opponent, {against}{cheaper}, differ by less than the margin of "
            f"{number(verdict.margin, unit)}{unit.difference}: {gap}{higher}"
        )
    named, found = rests_on(verdict)
    if named != verdict.against:
        rest.remove(named)
        gap, against, cheaper = on_select(found), approach_name(named), ""
    also = f"{',' if cheaper else ''} and {counted(len(rest), 'other')}" if rest else ""
    needed = ""
    if verdict.samples_needed is not None:
        more = f"about {rounded(verdict.samples_needed):,} samples per class"
        needed = f"; {more} would tell, {verdict.samples} are there"
    gap += corrected_for(verdict, found)
    return f"CANNOT TELL: {name} is not told apart from {against}{cheaper}{also}: {gap}{needed}{higher}"


def row_name(winner: Winner) -> str:
    """Name of the winning row on the screen."""
    if winner.approach != SELMIX:
        return winner.approach
    return f"SelMix {short(winner.row or winner.trial_id)}{' (the defaults)' if winner.is_default else ''}"


def opponent_names(names: Sequence[str]) -> str:
    """Names of rows on the screen, with commas between."""
    return ", ".join(map(approach_name, names))


def _by_the_earlier_rule(verdict: Verdict, name: str, gap: str) -> str:
    """State a stored verdict of an earlier version, which was against one baseline and had no margin."""
    text = {
        "better": f"BETTER: {name} is better than {verdict.against}",
        "worse": f"WORSE: {verdict.against} is better than {name}",
    }.get(verdict.outcome, f"TIED: no significant difference between {name} and {verdict.against}")
    return f"{text}, by the earlier rule: {gap}"


def rounded(number: int) -> int:
    """Round to three digits: the number rests on an assumed share of samples that two models decide differently."""
    return int(float(f"{number:.3g}"))


def result_text(
    sweep: str, results: SweepResult, flag: str, links: Mapping[str, str], served: bool, width: int | None,
    further: str = "",
) -> str:  # fmt: skip
    """Verdicts of a sweep and what to do next: what its launch ends with. Arguments as of :func:`next_steps`."""
    winners = [name for name, result in results.objectives.items() if result.winner is not None]
    answers = [sentence(f"{name}: {answer(results.objectives[name])}", width) for name in winners]
    instead = other_rows(results.objectives)
    steps = next_steps(sweep, winners, len(results.objectives), flag, links, served, width, instead, further)
    shown = paragraph("", f"selmix show {sweep}{flag}: the table of all rows, and how sure it is", width)
    return "\n".join([*answers, *([""] if answers else []), steps, shown])


def further_step(command: str, left: Sequence[Rung]) -> str:
    """Command that climbs the rungs which a launch left out; empty where it left none.

    Args:
        command: that climbs them.
        left: rungs of the sweep that are not climbed yet.
    """
    names = " and ".join([", ".join(left[:-1]), *left[-1:]] if left[1:] else left)
    return f"{command}: go on with {names}" if left else ""


def other_rows(objectives: Mapping[str, ObjectiveResult]) -> list[tuple[str, str, str]]:
    """Rows that a verdict speaks for and that did not win: objective, row, and why one would pin it."""
    found = [
        (name, *recommended_row(result)) for name, result in objectives.items() if result.winner is not None
    ]
    return [(name, row, why) for name, row, why in found if row is not None]


def next_steps(
    sweep: str, winners: Sequence[str], num_objectives: int, flag: str, links: Mapping[str, str], served: bool,
    width: int | None, instead: Sequence[tuple[str, str, str]] = (), further: str = "",
) -> str:  # fmt: skip
    """Lines on what to do with a result: pin it, look at its runs.

    Args:
        sweep: name of the sweep.
        winners: objectives that have a winner; without any there is nothing to pin.
        num_objectives: of the sweep.
        flag: ``--runs FOLDER`` with a blank before it; empty for the default folder.
        links: objective -> link to its runs in MLflow; may be empty.
        served: True if a server has the pages; else `selmix ui` serves them.
        width: columns of the terminal; None: lines stay whole.
        instead: rows that one may pin in the winner's place, as of :func:`other_rows`.
        further: how to climb the rungs that are left, as of :func:`further_step`; empty where none is.
    """
    steps = []
    if winners:
        # All in one command: a pin after the first opening of test is not confirmatory.
        which = "".join(f" --objective {name}" for name in winners) if num_objectives > 1 else ""
        purpose = "evaluate the winner and its opponents on test, keep the model"
        steps.append(f"selmix pin {sweep}{which}{flag} --name NAME: {purpose}")
    for objective, row, why in instead:
        of = f" --objective {objective}" if num_objectives > 1 else ""
        steps.append(f"selmix pin {sweep}{of}{flag} --row {row} --name NAME: {why}")
    if further:
        steps.append(further)
    if not links:
        steps.append(f"selmix ui{flag}: every run and round in MLflow")
    elif served:
        steps.append("MLflow has every run and round; the runs of this table:")
    else:
        steps.append(f"selmix ui{flag}: every run and round in MLflow; the runs of this table are then at")
    # Where MLflow has no view of them, as of earlier versions, all objectives have one link.
    apart = len(set(links.values())) > 1
    steps += dict.fromkeys(f"{name}: {link}" if apart else link for name, link in links.items())
    return "\n".join(
        paragraph("next" if number == 0 else "", step, width) for number, step in enumerate(steps)
    )


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
                found.append(f"the best of the rung {choice.rung} is {name_of_row(choice.best)}, {how}")
        if not (is_own and by_folds):
            others.append(choice)
    ahead = max(others, key=lambda choice: _score(result, choice.best), default=None)
    if ahead is not None and _score(result, ahead.best) > own:
        dearer = ", and dearer" if RUNGS.index(ahead.rung) >= RUNGS.index(winner.rung) else ""
        found.append(f"{name_of_row(ahead.best)} is ahead on select by less than the margin{dearer}")
    return found


def _by_cross_fitting(result: ObjectiveResult, ours: str, theirs: str) -> str:
    """State the cross-fitted scores of two baselines, of which the second is ahead on select.

    Args:
        result: of the objective.
        ours: id of the row that was chosen by this score.
        theirs: id of the other one.
    """
    our_fit, their_fit = (result.baselines[name_of_row(row)].cross_fitted for row in (ours, theirs))
    # For the type checker: rows that were compared by this score have one.
    if our_fit is None or their_fit is None or our_fit.score is None or their_fit.score is None:
        raise AssertionError(f"{ours} and {theirs} were compared by cross-fitted scores")
    unit = unit_of(result.metric)
    against = f"{number(their_fit.score, unit)} of {name_of_row(theirs)}"
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
    baseline = result.baselines.get(name_of_row(row))
    score = means.get(row) if baseline is None else baseline.score
    return float("-inf") if score is None else score


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
