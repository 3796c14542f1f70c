"""Why nothing can win an objective: how far the nearest came to each bound, and what would change it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import TYPE_CHECKING

import yaml

from orchestrator.messages import counted
from orchestrator.results.candidates import in_order
from orchestrator.results.replicate_means import mean_select
from orchestrator.table import short

if TYPE_CHECKING:
    from orchestrator.results.judge import Judge
    from selmix.statistics.selection import Constraint


def why_nothing_wins(judge: Judge) -> str:
    """State why an objective has no winner; proposes nothing that a sweep file may not say.

    Args:
        judge: of the objective, whose runs are done.
    """
    # A reference cannot win, whatever it meets.
    others = {
        record.name: record
        for record in in_order(judge.folder.load_baselines(judge.objective))
        if record.state == "FINISHED" and not record.reference
    }
    beside = f", and none of {counted(len(others), 'other row')}" if others else ""
    head = f"no feasible trial for {judge.objective}{beside}"
    # Without the rung of the search.
    if not judge.trials and others:
        head = f"no feasible row for {judge.objective} among {len(others)}"
    finals = {name: runs for name, runs in judge.finals().items() if runs}
    finished = {name: trial for name, trial in judge.trials.items() if trial.state == "FINISHED"}
    if not finished and (judge.trials or not others):
        errors = sorted({str(trial.error) for trial in judge.trials.values() if trial.error})
        return f"{head}: no trial finished{f': {errors[0]}' if errors else ''}"
    if not finals and any(trial.feasible for trial in finished.values()):
        errors = sorted({str(run.error) for runs in judge.replicates.values() for run in runs if run.error})
        return f"{head}: no finalist finished on its fresh seeds{f': {errors[0]}' if errors else ''}"
    # What counts is the mean over fresh seeds; without a finalist, a trial on the seed of the search.
    figures = {name: mean_select(runs) for name, runs in finals.items()} or {
        name: trial.select for name, trial in finished.items()
    }
    # By number where several miss by as much, so that the text depends on the records alone.
    order = sorted(figures, key=lambda name: judge.trials[name].number)
    figures |= {name: record.select for name, record in others.items()}
    values = {name: {key: figure.value for key, figure in each.items()} for name, each in figures.items()}
    nearest = min([*order, *others], key=lambda name: judge.rule.violation(values[name]))
    bounds = [bound for bound in judge.rule.constraints if "search" in bound.where]
    place = short(nearest)
    over = f" (mean over {counted(len(finals[nearest]), 'fresh seed')})" if nearest in finals else ""
    stands = ", ".join(_standing(bound, values[nearest]) for bound in bounds)
    missed = [bound for bound in bounds if bound.violation(values[nearest]) > 0.0]
    if not missed:
        return f"{head}: {place}{over} came nearest{f', with {stands}' if stands else ''}"
    loosened = ", ".join(_loosened(bound, values[nearest]) for bound in missed)
    more = ""
    # A grid ends with its last point, and without a searched parameter every trial is the same.
    if judge.trials and judge.spec.searched and judge.spec.search.method != "grid":
        more = f" or raise search.num_trials above {judge.spec.search.num_trials}"
    return (
        f"{head}: the nearest, {place}{over}, came to {stands}; under a new name (name=NEW) loosen the bound to "
        f"{loosened}{more}; a bound steers the fits too, so that it may take more than that"
    )


def _standing(bound: Constraint, values: Mapping[str, float]) -> str:
    value, miss = values[bound.key], bound.violation(values)
    sign = ">=" if bound.at_least is not None else "<="
    how = f"missed by {miss:.3g}" if miss > 0.0 else "met"
    return f"{bound.key} {value:.3g} (bound {sign} {bound.bound:g}, {how})"


def _loosened(bound: Constraint, values: Mapping[str, float]) -> str:
    """The constraint as a sweep file states it, with a bound that this row meets."""
    key, rounding = ("at_least", ROUND_FLOOR) if bound.at_least is not None else ("at_most", ROUND_CEILING)
    # Three digits, to the side on which this row meets it.
    loosened = Context(prec=3, rounding=rounding).create_decimal_from_float(values[bound.key])
    # A metric that is no one of a confusion matrix is refused inside the method: the place stays what it is.
    place = "" if len(bound.where) == 2 else f", in: [{', '.join(bound.where)}]"
    of_class = "" if bound.label is None else f", class: {_in_flow(bound.class_name) or bound.label}"
    return f"{{metric: {bound.metric}{of_class}, {key}: {float(loosened):g}{place}}}"


def _in_flow(name: str) -> str:
    """A class's name inside a flow mapping of YAML, quoted where it would otherwise be read as something else."""
    plain = re.fullmatch(r"[A-Za-z][\w-]*", name, re.ASCII) is not None and yaml.safe_load(name) == name
    return name if plain or not name else json.dumps(name)
