"""Result of a sweep as text: the verdict, then the setting, the baselines, and the significance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.documents import Document
from orchestrator.http_client import SERVERS
from orchestrator.messages import counted, preprocess_words
from orchestrator.records.types import CrossFittedScore, Metrics
from orchestrator.results.rows import (
    SELMIX,
    ArmResult,
    BaselineRow,
    Bound,
    ComparisonTable,
    MoreLabels,
    ObjectiveResult,
    Verdict,
    Winner,
    approach_name,
    bound_of,
    bounds_of_constraints,
    ranked_rows,
    selmix_row,
)
from orchestrator.results.rungs import climb_text, screen_text
from orchestrator.results.winner_text import (
    answer,
    further_step,
    next_steps,
    opponent_names,
    other_rows,
    reasons,
    rounded,
    row_name,
    shipped_file,
)
from orchestrator.table import (
    Column,
    Interval,
    Unit,
    difference,
    estimate,
    natural_width,
    number,
    paragraph,
    sentence,
    short,
    table,
    unit_of,
)
from orchestrator.verbs.show import ShowDocument, TrialRow

CROSS_METRICS = ("mean_recall", "min_recall", "g_mean", "h_mean", "accuracy", "min_coverage")
"""Metrics by which the winners of several objectives are compared, beside functions of the user's own."""

STATISTICS = {"bagged": "bootstrap mean", "lower_bound": "lower confidence bound", "value": "value"}
"""Meaning of ``selection.statistic``, which ranks trials."""

BOLD, PLAIN = "\x1b[1m", "\x1b[0m"
REFERENCE = (
    "* for reference only: the whole model trained again, which is another cost; no opponent of the verdict"
)

SPLITS = ("train", "feedback", "select", "checkpoint")
BREAKS = " !"
BROKEN = "! breaks this bound: neither winner nor opponent"

FIRST_COLUMNS = (
    Column("value", right=True), Column("95 % interval", right=True), Column("score", right=True)
)  # fmt: skip
CROSS_FITTED_COLUMN = Column("cross-fitted", right=True)
LAST_COLUMNS = Column("labels used"), Column("cost/run", right=True)
CROSS_FITTED = (
    "cross-fitted: score over feedback + select, each fold judged by a fit on the others; it chooses within the rungs "
    "scores and head"
)
IN_BRACKETS = "in brackets: breaks a bound there, and is not chosen by it"


def show_text(document: ShowDocument, width: int | None, colour: bool = False, flag: str = "") -> str:
    """Text of the result of a sweep; its first line is the answer.

    Args:
        document: the result.
        width: columns of the terminal, or None to leave lines whole.
        colour: True to print the answer bold.
        flag: ``--runs FOLDER`` for the commands that it advises, with a blank before it; empty for the default folder.
    """
    blocks = [_headline(document, width, colour), _setting(document, width)]
    for objective, result in document.objectives.items():
        if result.winner is None:
            blocks.append(sentence(f"{objective}: {_undecided(document, result)}", width))
            without = result.feasible is False or "finetune" not in document.climbed
            if without and result.metric is not None:
                blocks.append(_without_winner(document, objective, result, result.metric, width))
        else:
            blocks.append(_objective(document, objective, result, result.winner, width))
    winners = {name: r.winner for name, r in document.objectives.items() if r.winner is not None}
    if len(document.objectives) > 1 and winners:
        own = [r.metric for r in document.objectives.values() if r.metric is not None and ":" in r.metric]
        blocks.append(_cross_table(winners, [*CROSS_METRICS, *dict.fromkeys(own)], width))
    blocks.append(_test(document, width))
    blocks.append(_next(document, width, flag))
    return "\n\n".join(block for block in blocks if block)


def _headline(document: ShowDocument, width: int | None, colour: bool) -> str:
    lines = [
        f"{objective}: {answer(result)}"
        for objective, result in document.objectives.items()
        if result.winner is not None
    ]
    if not lines:
        done = document.progress
        kept = f"{done.finished} of {done.total} runs finished"
        # Before the search, and without one, the runs are baselines, which are not planned ahead.
        if "finetune" not in document.climbed or not done.total:
            rows = (row for result in document.objectives.values() for row in result.baselines.values())
            kept = f"{counted(sum(row.state == 'FINISHED' for row in rows), 'baseline')} finished"
        lines.append(f"{document.sweep} is {document.state}: {kept}")
    # A finished sweep may have a problem, too: an objective without a feasible trial.
    if document.problem:
        lines.append(document.problem)
    # Wrapped before it is printed bold: the escape codes have no width on the screen.
    wrapped = [line for text in lines for line in sentence(text, width).splitlines()]
    return "\n".join(f"{BOLD}{line}{PLAIN}" if colour else line for line in wrapped)


def _setting(document: ShowDocument, width: int | None) -> str:
    """Objective, data, model, search space and runs of the sweep; empty before its data were read."""
    spec, data, done = document.spec, document.data, document.progress
    if not data:
        return ""
    train, base = data["train_counts"], document.base
    source = base.get("checkpoint") or f"pre-trained by {base.get('recipe')}"
    # The resolution of a recall: one sample of a class more or less is the smallest change.
    # Earlier records have the sum alone, as if the classes had equally many.
    held = data.get("select_counts") or [data["num_select"] // len(train)]
    smallest, largest = min(held), max(held)
    step = 100 / max(1, smallest)
    per_class, up_to = (f"{smallest}", "") if smallest == largest else (f"{smallest} to {largest}", "up to ")
    bounds = [bound_of(constraint, data["class_names"]).shown for constraint in spec["constraints"]]
    subject = f" subject to {', '.join(bounds)}" if bounds else ""
    lines = [
        ("objective", f"{', '.join(spec['objectives'])}{subject}{_ranking(document)}"),
        (
            "data",
            f"{spec['data']['name']}: {len(train)} classes, {max(train)} to {min(train)} training samples per class, "
            f"{per_class} select samples per class (a recall moves in steps of {up_to}"
            f"{step:.{1 if step >= 0.1 else 3}f} pp)",
        ),
        # Written by the launch of a sweep on images; sweeps of earlier versions lack it.
        *([("preprocess", preprocess_words(spec["data"]))] if "resize" in spec["data"] else []),
        ("model", f"{spec['model']['name']}, {source}"),
        *(
            ("ablation", f"{name}: {', '.join(map(_plain, values))}")
            for name, values in spec.get("compare", {}).items()
        ),
    ]
    searches = "finetune" in document.climbed
    # Without trials a screen alone searches.
    if searches or spec.get("screen"):
        lines.append(("search space", ", ".join(_searched(spec)) or "none: the defaults only"))
    if searches:
        lines.append((
            "runs",
            f"{done.finished} finished{stopped_early(document.trials)}, {done.failed} failed, "
            f"of {done.total} (trials, and finalists on "
            f"{counted(spec['selection']['replicates'], 'fresh seed')}){_interruptions(document.trials)}",
        ))  # fmt: skip
    else:
        early = f", and not yet {', '.join(document.left)}" if document.left else ""
        lines.append(("runs", f"baselines of {', '.join(document.climbed)}{early}; no trials"))
    return "\n".join(paragraph(label, text, width) for label, text in lines)


def stopped_early(trials: Sequence[TrialRow]) -> str:
    """Count in words the finished runs that were stopped early; empty where none was."""
    pruned = sum(trial.state == "PRUNED" for trial in trials)
    return f", {pruned} of them stopped early" if pruned else ""


def _interruptions(trials: Sequence[TrialRow]) -> str:
    """Runs whose worker or node was lost; empty where there were none."""
    losses = sum(trial.losses for trial in trials)
    if not losses:
        return ""
    lost_s = sum(trial.lost_s for trial in trials)
    return f"; {losses} were interrupted with a worker or node and resumed, {lost_s:.0f} s were run again"


def _ranking(document: ShowDocument) -> str:
    """Gloss of the column ``score``; empty for a statistic that this version does not know."""
    meaning = STATISTICS.get(document.spec["selection"].get("statistic", ""))
    ranked = "trials" if "finetune" in document.climbed else "rows"
    return "" if meaning is None else f"; {ranked} are ranked by score, the {meaning} of the metric on select"


def _searched(spec: Document) -> list[str]:
    return [name for name, parameter in spec["parameters"].items() if "value" not in parameter]


def _undecided(document: ShowDocument, result: ObjectiveResult) -> str:
    if result.feasible is False:
        return "no trial meets the constraints"
    if document.state == "finished" and "finetune" not in document.climbed:
        return "no row meets the constraints" if result.bounds else "no row finished"
    if document.state == "finished":
        return "no finalist could be run on its fresh seeds"
    return "no result" if document.state == "failed" else "not decided yet"


def _legends(result: ObjectiveResult, rows: Sequence[tuple[str, ...]], width: int | None) -> list[str]:
    """What the signs in the table mean."""
    return [
        *([sentence(REFERENCE, width)] if any(row.reference for row in result.baselines.values()) else []),
        *([sentence(BROKEN, width)] if any(BREAKS in cell for row in rows for cell in row) else []),
    ]


def _without_winner(
    document: ShowDocument, objective: str, result: ObjectiveResult, metric: str, width: int | None
) -> str:
    """Rows that all break a bound: how far each of them is from it; empty where none has finished."""
    bounds = result.bounds or bounds_of_constraints(
        document.spec["constraints"], document.data["class_names"]
    )
    best = max(
        (
            trial
            for trial in document.trials
            if trial.objective == objective and trial.kind == "trial" and metric in trial.select
        ),
        key=lambda trial: float("-inf") if trial.score is None else trial.score,
        default=None,
    )
    labels = ["checkpoint" if document.base.get("checkpoint") else "train", "feedback", "select"]
    ranked = [] if best is None else [(best.score or 0.0, _row(
        f"SelMix {short(best.trial_id)}", best.select, metric, best.score, labels, best.cost_s, bounds,
    ))]  # fmt: skip
    for name, row in result.baselines.items():
        score = row.score if row.state == "FINISHED" else None
        # A failed row goes last; a score of 0 is one like any other.
        ranked.append((float("-inf") if score is None else score, _baseline(name, row, metric, bounds)))
    if not ranked:
        return ""
    rows = [cells for _, cells in sorted(ranked, key=lambda each: -each[0])]
    return "\n".join([
        *_results(f"{metric} on select{unit_of(metric).heading}", rows, bounds, width),
        *_legends(result, rows, width),
    ])  # fmt: skip


def _objective(
    document: ShowDocument, objective: str, result: ObjectiveResult, winner: Winner, width: int | None
) -> str:
    metric, constraints = result.metric or "", document.spec["constraints"]
    # Results of before they were stored beside the rows have them in the sweep file alone.
    bounds = result.bounds or bounds_of_constraints(constraints, document.data["class_names"])
    rows = _rows(objective, result, winner, metric, bounds)
    lines = [
        objective,
        *_results(f"{metric} on select{unit_of(metric).heading}", rows, bounds, width),
        *_legends(result, rows, width),
        paragraph(
            "winner", "; ".join([shipped_file(winner, metric, bounds), *reasons(result, winner)]), width
        ),
    ]
    if winner.config:
        lines.append(paragraph("", _settings(document.spec, winner.config), width))
    if winner.deviations:
        used = " and ".join(winner.deviations.values())
        lines.append(paragraph("", f"FOR COMPARISON ONLY: the winner used {used}", width))
    if len(result.climb) > 1:
        lines.append(paragraph("rungs", climb_text(metric, result.climb), width))
    if result.screen is not None:
        lines.append(paragraph("screen", screen_text(metric, result.screen), width))
    lines.append(paragraph("significance", _significance(result, winner), width))
    if result.selmix is not None and winner.approach != SELMIX:
        lines.append(paragraph("SelMix", _selmix(result.selmix, unit_of(metric)), width))
    if "finetune" in document.climbed:
        lines.append(paragraph("search", _search(result), width))
    if result.compare is not None:
        seeds = document.spec["selection"]["replicates"]
        lines += ["", sentence(_caption(result.compare, seeds), width)]
        lines.append(_comparison(result.compare, metric, width))
    return "\n".join(lines)


def _rows(
    objective: str, result: ObjectiveResult, winner: Winner, metric: str, bounds: Sequence[Bound]
) -> list[tuple[str, ...]]:
    """Rows of the table: the winner, then the others by score; means over fresh seeds where there are some."""
    made = {name: _baseline(name, row, metric, bounds) for name, row in result.baselines.items()}
    if winner.approach == SELMIX:
        # The means over fresh seeds: the shipped file was chosen here as the highest of them.
        made[SELMIX] = _row(
            f"SelMix {short(winner.row or winner.trial_id)}", winner.replicates.select, metric,
            winner.replicates.score, winner.labels, winner.cost_s, bounds,
        )  # fmt: skip
    elif (final := selmix_row(result)) is not None:
        made_with = [label for label in winner.labels if label in ("train", "checkpoint")]
        made[SELMIX] = _row(
            f"SelMix {short(final.trial_id)}", final.select, metric, final.score,
            [*made_with, "feedback", "select"], final.cost_s, bounds,
        )  # fmt: skip
    ordered = [made[row.approach] for row in ranked_rows(objective, result)]
    # The winner is the first row, unless it is a baseline of another version that the result does not list.
    if winner.approach in made:
        ordered[0] = (f"winner {ordered[0][0].removesuffix('*')}", *ordered[0][1:])
    return ordered


def _baseline(name: str, row: BaselineRow, metric: str, bounds: Sequence[Bound]) -> tuple[str, ...]:
    if row.state != "FINISHED":
        return name, "", "", "", "", *("" for _ in bounds), f"failed: {row.error}", ""
    return _row(
        f"{name}*" if row.reference else name, row.select, metric, row.score, row.labels, row.cost_per_run_s, bounds,
        _cross_fitted(row.cross_fitted, unit_of(metric)),
    )  # fmt: skip


def _row(
    name: str,
    select: Metrics,
    metric: str,
    score: float | None,
    labels: Sequence[str],
    cost_s: float,
    bounds: Sequence[Bound],
    cross_fitted: str = "",
) -> tuple[str, ...]:
    bounded, unit = [], unit_of(metric)
    for bound in bounds:
        figure = select.get(bound.metric)
        broken = figure is not None and bound.is_broken(figure.value)
        shown = "" if figure is None else number(figure.value, unit_of(bound.metric))
        bounded.append(f"{shown}{BREAKS if broken else ''}")
    return (
        name, *_interval(select[metric], unit), "" if score is None else number(score, unit), cross_fitted, *bounded,
        "+".join(labels), f"{cost_s:.1f} s",
    )  # fmt: skip


def _cross_fitted(found: CrossFittedScore | None, unit: Unit) -> str:
    """Cell of a cross-fitted score, in brackets where a bound rules it out; empty without one."""
    if found is None or found.score is None:
        return ""
    score = number(found.score, unit)
    return f"({score})" if found.violation else score


def _results(
    title: str, rows: Sequence[tuple[str, ...]], bounds: Sequence[Bound], width: int | None
) -> list[str]:
    """Table of all rows, with the labels by their initials where the terminal is too narrow for it.

    The column of cross-fitted scores is left out where it would break the names of the rows, or holds nothing.
    """
    bounded = tuple(Column(f"{bound.shown}{unit_of(bound.metric).heading}", right=True) for bound in bounds)
    columns = (Column(title), *FIRST_COLUMNS, CROSS_FITTED_COLUMN, *bounded, *LAST_COLUMNS)
    if any(row[4] for row in rows):
        legend = [
            sentence(CROSS_FITTED + (f"; {IN_BRACKETS}" if any("(" in row[4] for row in rows) else ""), width)
        ]
        if _fits(columns, rows, width):
            return [table(columns, rows, width), *legend]
        short_rows, initials = _with_initials(rows)
        if _fits(columns, short_rows, width):
            return [table(columns, short_rows, width), sentence(initials, width), *legend]
    columns = (*columns[:4], *columns[5:])
    rows = [(*row[:4], *row[5:]) for row in rows]
    if _fits(columns, rows, width):
        return [table(columns, rows, width)]
    short_rows, initials = _with_initials(rows)
    return [table(columns, short_rows, width), sentence(initials, width)]


def _fits(columns: Sequence[Column], rows: Sequence[tuple[str, ...]], width: int | None) -> bool:
    return width is None or natural_width(columns, rows) <= width


def _with_initials(rows: Sequence[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], str]:
    """Rows with the labels by their initials, and the legend of these."""
    named = {label: label[0] for row in rows for label in row[-2].split("+") if label in SPLITS}
    short_rows = [
        (*row[:-2], "+".join(named.get(label, label) for label in row[-2].split("+")), row[-1])
        for row in rows
    ]
    return short_rows, f"labels used: {', '.join(f'{initial} {label}' for label, initial in named.items())}"


def _interval(estimate: Interval, unit: Unit) -> tuple[str, str]:
    low, high = number(estimate.low, unit), number(estimate.high, unit)
    return number(estimate.value, unit), f"[{low}, {high}]"


def _settings(spec: Document, config: Mapping[str, Any]) -> str:
    # The searched settings; of a sweep that searches nothing the two that matter most.
    names = [*spec.get("compare", {}), *_searched(spec)] or ["lr", "steps"]
    return ", ".join(f"{name} {_plain(config[name])}" for name in names)


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _significance(result: ObjectiveResult, winner: Winner) -> str:
    verdict = result.verdict
    unit = unit_of(result.metric)
    if verdict is None:
        none = "there is no opponent: a finished row of another approach with no more labels"
        return f"{none}{_beyond(result.more_labels, winner, unit)}"
    gap = (
        f"{row_name(winner)} minus {approach_name(verdict.against)}: {difference(verdict.difference, unit)}"
        f"{unit.difference}, paired over the same samples and seeds"
    )
    optimistic = (
        "Optimistic: both were chosen on these samples. `selmix pin` evaluates the shipped files on test"
    )
    if verdict.margin is None:
        return f"{gap}; by the earlier rule, against one baseline and without a margin. {optimistic}"
    margin = f"margin {number(verdict.margin, unit)}{unit.difference}"
    more = _beyond(verdict.more_labels, winner, unit)
    return f"{gap}; {_against_all(verdict)}; {margin}{_tie(verdict)}{more}. {optimistic}"


def _beyond(more: MoreLabels | None, winner: Winner, unit: Unit) -> str:
    """List the rows of more labels with the difference from the best of them; empty without any."""
    if more is None:
        return ""
    minus = f"{row_name(winner)} minus {approach_name(more.rows[0])}"
    gap = f"{difference(more.difference, unit)}{unit.difference}"
    return f"; of more labels, and no opponents: {opponent_names(more.rows)} ({minus}: {gap})"


def _tie(verdict: Verdict) -> str:
    """State that a tie is out of reach, of a minimum on few samples; empty elsewhere."""
    if verdict.samples_to_tie is None:
        return ""
    return (
        f" (with {verdict.samples} samples per class a minimum is hardly ever tied: without any observed difference "
        f"that takes about {rounded(verdict.samples_to_tie):,})"
    )


def _against_all(verdict: Verdict) -> str:
    """State how a row stands against each of its opponents."""
    beaten = [
        name
        for name in verdict.differences
        if name not in verdict.not_told_apart and name not in verdict.worse_than
    ]
    groups = (
        ("better than", beaten), ("not told apart from", verdict.not_told_apart), ("worse than", verdict.worse_than)
    )  # fmt: skip
    return "; ".join(f"{words} {opponent_names(names)}" for words, names in groups if names)


def _selmix(verdict: Verdict, unit: Unit) -> str:
    """State how the best SelMix row stands, where another row won."""
    return (
        f"{short(verdict.row or '')} minus {approach_name(verdict.against)}: {difference(verdict.difference, unit)}"
        f"{unit.difference}; {_against_all(verdict)}"
    )


def _search(result: ObjectiveResult) -> str:
    gain = result.search_added
    if not result.tied:
        return "no trial can win: none finished within the bounds on all its fresh seeds"
    tied = ", ".join(short(name) for name in result.tied)
    if gain is None and len(result.finalists) == 1:
        return f"{tied} is the only finalist: nothing else ran on fresh seeds"
    if gain is None:
        return f"tied finalists: {tied}"
    meaning = "a significant gain" if gain.low > 0 else "no significant gain"
    unit = unit_of(result.metric)
    return (
        f"{meaning} over the defaults: {short(gain.trial_id)} minus the defaults is {difference(gain, unit)}"
        f"{unit.difference} over fresh seeds; tied finalists: {tied}"
    )


def _caption(compare: ComparisonTable, seeds: int) -> str:
    # Holm's correction changes nothing for a single comparison, so it is not mentioned then.
    others = len(compare.rows) - 1
    corrected = f", corrected for {others} comparisons" if others > 1 else ""
    return (
        f"ablation of {compare.parameter} on select: every value has a study of its own; means over "
        f"{counted(seeds, 'fresh seed')}, paired differences with their 95 % intervals, outcomes at 5 %{corrected}"
    )


def _comparison(compare: ComparisonTable, metric: str, width: int | None) -> str:
    """Two tables, each narrow enough for a terminal of 80 columns."""
    unit = unit_of(metric)
    columns = (
        Column(compare.parameter),
        Column(unit.value.strip() or "value", right=True),
        Column(f"minus {compare.reference}{',' + unit.difference if unit.difference else ''}", right=True),
        Column("outcome"),
    )
    tuned = [
        (str(row.value), *_arm(row.tuned, metric), "" if row.tuned is None else short(row.tuned.trial_id))
        for row in compare.rows
    ]
    defaults = [(str(row.value), *_arm(row.defaults, metric)) for row in compare.rows]
    return "\n".join([
        f"each {compare.parameter} with the best settings of its study",
        table((*columns, Column("trial")), tuned, width),
        f"each {compare.parameter} with the default settings otherwise",
        table(columns, defaults, width),
    ])  # fmt: skip


def _arm(arm: ArmResult | None, metric: str) -> tuple[str, str, str]:
    if arm is None:
        return "", "", "no finished finalist"
    unit = unit_of(metric)
    gap = "" if arm.difference is None else difference(arm.difference, unit)
    return estimate(arm.select[metric], unit), gap, arm.outcome or ""


def _cross_table(winners: Mapping[str, Winner], metrics: Sequence[str], width: int | None) -> str:
    """Table of every winner under every one of these metrics."""
    # A metric that the data do not have leaves its cell empty.
    rows = [
        (
            objective,
            *(
                number(winner.replicates.select[m].value, unit_of(m)) if m in winner.replicates.select else ""
                for m in metrics
            ),
        )
        for objective, winner in winners.items()
    ]
    return table((Column("winner of \\ metric, %"), *(Column(m, right=True) for m in metrics)), rows, width)


def _test(document: ShowDocument, width: int | None) -> str:
    """Number of times that the test split was seen, as far as the runs folder knows; empty where it was not."""
    if document.test_problem is not None:
        return paragraph("test", f"cannot tell how often it was seen: {document.test_problem}", width)
    if not document.test_seen:
        return ""
    times, first = counted(len(document.test_seen), "time"), document.test_seen[0]
    return paragraph(
        "test",
        f"seen {times}, first by {first.by} of {first.sweep} on {first.time[:10]}; a further pin is not confirmatory",
        width,
    )


def _next(document: ShowDocument, width: int | None, flag: str) -> str:
    name = document.sweep
    winners = [objective for objective, result in document.objectives.items() if result.winner is not None]
    served = document.tracking_uri.startswith(SERVERS)
    if document.state == "finished" and winners:
        instead = other_rows(document.objectives)
        return next_steps(
            name, winners, len(document.objectives), flag, document.links, served, width, instead,
            further_step(f"selmix launch FILE{flag}, the same file", document.left),
        )  # fmt: skip
    lines = []
    if document.state == "running" and document.progress.eta_s is not None:
        lines.append(f"about {document.progress.eta_s:.0f} s left")
    elif document.cancelled:
        lines.append("it was cancelled for good; launch it under a new name (name=NEW)")
    elif document.state == "stopped":
        lines.append(f"selmix launch FILE{flag}, the same file again: resume")
    failed = next((trial.trial_id for trial in document.trials if trial.state == "FAILED"), None)
    if document.state == "failed" and failed is not None:
        lines.append(f"selmix logs {name} {failed}{flag}: the traceback of a failed trial")
    return "\n".join(paragraph("" if number else "next", line, width) for number, line in enumerate(lines))
