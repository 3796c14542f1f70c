"""Result of a sweep as text: the verdict, then the setting, the baselines, and the significance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.documents import Document
from orchestrator.messages import counted
from orchestrator.results.rows import ArmResult, BaselineRow, ComparisonTable, ObjectiveResult, Winner
from orchestrator.table import (
    Column,
    Interval,
    difference,
    estimate,
    natural_width,
    paragraph,
    percent,
    sentence,
    short,
    table,
)
from orchestrator.verbs.show import ShowDocument, TrialRow

CROSS_METRICS = ("mean_recall", "min_recall", "g_mean", "h_mean", "accuracy", "min_coverage")
"""Metrics by which the winners of several objectives are compared."""

STATISTICS = {"bagged": "bootstrap mean", "lower_bound": "lower confidence bound", "value": "value"}
"""Meaning of ``selection.statistic``, which ranks trials."""

BOLD, PLAIN = "\x1b[1m", "\x1b[0m"
REFERENCE = (
    "* for reference only: the whole model trained again, which is another cost; no opponent of the verdict"
)

SPLITS = ("train", "feedback", "select", "checkpoint")
LABELS = 4
"""Place of the labels in a row of winner and baselines."""

BASELINE_COLUMNS = (
    Column("value", right=True), Column("95 % interval", right=True), Column("score", right=True),
    Column("labels used"), Column("cost/run", right=True),
)  # fmt: skip


def show_text(document: ShowDocument, width: int | None, colour: bool = False) -> str:
    """Text of the result of a sweep; its first line is the answer.

    Args:
        document: the result.
        width: columns of the terminal, or None to leave lines whole.
        colour: True to print the answer bold.
    """
    blocks = [_headline(document, width, colour), _setting(document, width)]
    for objective, result in document.objectives.items():
        if result.winner is None:
            blocks.append(sentence(f"{objective}: {_undecided(document, result)}", width))
        else:
            blocks.append(_objective(document, objective, result, result.winner, width))
    winners = {name: r.winner for name, r in document.objectives.items() if r.winner is not None}
    if len(document.objectives) > 1 and winners:
        blocks.append(_cross_table(winners, width))
    blocks.append(_next(document, width))
    return "\n\n".join(block for block in blocks if block)


def _headline(document: ShowDocument, width: int | None, colour: bool) -> str:
    lines = [
        f"{objective}: {answer(result)}"
        for objective, result in document.objectives.items()
        if result.winner is not None
    ]
    if not lines:
        done = document.progress
        lines.append(f"{document.sweep} is {document.state}: {done.finished} of {done.total} runs finished")
    # A finished sweep may have a problem, too: an objective without a feasible trial.
    if document.problem:
        lines.append(document.problem)
    # Wrapped before it is printed bold: the escape codes have no width on the screen.
    wrapped = [line for text in lines for line in sentence(text, width).splitlines()]
    return "\n".join(f"{BOLD}{line}{PLAIN}" if colour else line for line in wrapped)


def answer(result: ObjectiveResult) -> str:
    """State the verdict in a sentence."""
    verdict, winner = result.verdict, result.winner
    if winner is None:
        return "nothing can win"
    name = f"{short(winner.trial_id)}{' (the defaults)' if winner.is_default else ''}"
    if verdict is None:
        return f"winner {name}; no baseline could be fitted to compare it with"
    gap, against = f"{difference(verdict.difference)} pp on select", verdict.against
    if verdict.outcome == "better":
        return f"BETTER: the winner {name} is better than the best baseline, {against}: {gap}"
    if verdict.outcome == "worse":
        return f"WORSE: the best baseline, {against}, is better than the winner {name}: {gap}"
    cheaper = ", and the baseline is cheaper" if verdict.against_is_cheaper else ""
    return f"TIED: no significant difference between the winner {name} and the best baseline, {against}{cheaper}: {gap}"


def _setting(document: ShowDocument, width: int | None) -> str:
    """Objective, data, model, search space and runs of the sweep; empty before its data were read."""
    spec, data, done = document.spec, document.data, document.progress
    if not data:
        return ""
    train, base = data["train_counts"], document.base
    source = base.get("checkpoint") or f"pre-trained by {base.get('recipe')}"
    # The resolution of a recall: one sample of a class more or less is the smallest change.
    per_class = data["num_select"] // len(train)
    bounds = [_bound(constraint) for constraint in spec["constraints"]]
    subject = f" subject to {', '.join(bounds)}" if bounds else ""
    lines = [
        ("objective", f"{', '.join(spec['objectives'])}{subject}{_ranking(spec)}"),
        (
            "data",
            f"{spec['data']['name']}: {len(train)} classes, {max(train)} to {min(train)} training samples per class, "
            f"{per_class} select samples per class (a recall moves in steps of {100 / per_class:.1f} pp)",
        ),
        ("model", f"{spec['model']['name']}, {source}"),
        *(
            ("ablation", f"{name}: {', '.join(map(_plain, values))}")
            for name, values in spec.get("compare", {}).items()
        ),
        ("search space", ", ".join(_searched(spec)) or "none: the defaults only"),
        (
            "runs",
            f"{done.finished} finished, {done.failed} failed, of {done.total} (trials, and finalists on "
            f"{counted(spec['selection']['replicates'], 'fresh seed')}){_interruptions(document.trials)}",
        ),
    ]
    return "\n".join(paragraph(label, text, width) for label, text in lines)


def _interruptions(trials: Sequence[TrialRow]) -> str:
    """Runs whose worker or node was lost; empty where there were none."""
    losses = sum(trial.losses for trial in trials)
    if not losses:
        return ""
    lost_s = sum(trial.lost_s for trial in trials)
    return f"; {losses} were interrupted with a worker or node and resumed, {lost_s:.0f} s were run again"


def _ranking(spec: Document) -> str:
    """Gloss of the column ``score``; empty for a statistic that this version does not know."""
    meaning = STATISTICS.get(spec["selection"].get("statistic", ""))
    return "" if meaning is None else f"; trials are ranked by score, the {meaning} of the metric on select"


def _bound(constraint: Document) -> str:
    sign, bound = ">=", constraint["at_least"]
    if bound is None:
        sign, bound = "<=", constraint["at_most"]
    # A sweep of before bounds on single classes has no key for them.
    of_class = constraint.get("class")
    subject = constraint["metric"] if of_class is None else f"{constraint['metric']} of {of_class}"
    return f"{subject} {sign} {bound:g}"


def _searched(spec: Document) -> list[str]:
    return [name for name, parameter in spec["parameters"].items() if "value" not in parameter]


def _undecided(document: ShowDocument, result: ObjectiveResult) -> str:
    if result.feasible is False:
        return "no trial meets the constraints"
    if document.state == "finished":
        return "no finalist could be run on its fresh seeds"
    return "no result" if document.state == "failed" else "not decided yet"


def _objective(
    document: ShowDocument, objective: str, result: ObjectiveResult, winner: Winner, width: int | None
) -> str:
    # The means over fresh seeds: the winner's own value is biased upwards by its selection.
    metric, means = result.metric or "", winner.replicates
    rows: list[tuple[str, ...]] = [(
        f"winner {short(winner.trial_id)}", *_interval(means.select[metric]), percent(means.score),
        "+".join(winner.labels), f"{winner.cost_s:.1f} s",
    )]  # fmt: skip
    # A failed baseline has no score and goes last; a score of 0 is one like any other.
    ranked = sorted(
        result.baselines.items(),
        key=lambda item: -(item[1].score if item[1].score is not None else float("-inf")),
    )
    rows += [_baseline(name, row, metric) for name, row in ranked]
    own = (
        f"{short(winner.trial_id)}, seed {winner.seed}, round {winner.round} ({winner.steps} steps), "
        f"{estimate(winner.select[metric])} on its own seed; the table has its mean over "
        f"{counted(len(means.seeds), 'fresh seed')}"
    )
    lines = [
        objective,
        *_results(f"{metric} on select, %", rows, width),
        *([sentence(REFERENCE, width)] if any(row.reference for row in result.baselines.values()) else []),
        paragraph("winner", own, width),
        paragraph("", _settings(document.spec, winner.config), width),
    ]
    if winner.deviations:
        used = " and ".join(winner.deviations.values())
        lines.append(paragraph("", f"FOR COMPARISON ONLY: the winner used {used}", width))
    lines.append(paragraph("significance", _significance(result), width))
    lines.append(paragraph("search", _search(result), width))
    if result.compare is not None:
        seeds = len(means.seeds)
        lines += ["", sentence(_caption(result.compare, seeds), width)]
        lines.append(_comparison(result.compare, metric, width))
    return "\n".join(lines)


def _results(title: str, rows: Sequence[tuple[str, ...]], width: int | None) -> list[str]:
    """Table of winner and baselines; where the terminal is too narrow for it, with the labels by their initials."""
    columns = (Column(title), *BASELINE_COLUMNS)
    if width is None or natural_width(columns, rows) <= width:
        return [table(columns, rows, width)]
    named = {label: label[0] for row in rows for label in row[LABELS].split("+") if label in SPLITS}
    short_rows = [
        (
            *row[:LABELS],
            "+".join(named.get(label, label) for label in row[LABELS].split("+")),
            *row[LABELS + 1 :],
        )
        for row in rows
    ]
    legend = ", ".join(f"{initial} {label}" for label, initial in named.items())
    return [table(columns, short_rows, width), sentence(f"labels used: {legend}", width)]


def _baseline(name: str, row: BaselineRow, metric: str) -> tuple[str, ...]:
    if row.state != "FINISHED":
        return (name, "", "", "", f"failed: {row.error}", "")
    return (
        f"{name}*" if row.reference else name, *_interval(row.select[metric]),
        "" if row.score is None else percent(row.score),
        "+".join(row.labels), f"{row.cost_per_run_s:.1f} s",
    )  # fmt: skip


def _interval(estimate: Interval) -> tuple[str, str]:
    return percent(estimate.value), f"[{percent(estimate.low)}, {percent(estimate.high)}]"


def _settings(spec: Document, config: Mapping[str, Any]) -> str:
    # The searched settings; of a sweep that searches nothing the two that matter most.
    names = [*spec.get("compare", {}), *_searched(spec)] or ["lr", "steps"]
    return ", ".join(f"{name} {_plain(config[name])}" for name in names)


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _significance(result: ObjectiveResult) -> str:
    verdict = result.verdict
    if verdict is None:
        return "there is no baseline to compare with"
    meaning = {
        "better": "significant on select: the paired interval lies above 0",
        "tied": "not significant: the paired interval contains 0",
        "worse": "significant in favour of the baseline: the paired interval lies below 0",
    }[verdict.outcome]
    return (
        f"winner minus {verdict.against}: {difference(verdict.difference)} pp, paired over the same samples and seeds; "
        f"{meaning}. Optimistic: both were chosen on these samples. `selmix pin` evaluates both on test"
    )


def _search(result: ObjectiveResult) -> str:
    gain = result.search_added
    tied = ", ".join(short(name) for name in result.tied)
    if gain is None:
        return f"tied finalists: {tied}"
    meaning = "a significant gain" if gain.low > 0 else "no significant gain"
    return (
        f"{meaning} over the defaults: {short(gain.trial_id)} minus the defaults is {difference(gain)} pp over fresh "
        f"seeds; tied finalists: {tied}"
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
    minus = f"minus {compare.reference}, pp"
    columns = (
        Column(compare.parameter),
        Column("%", right=True),
        Column(minus, right=True),
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
    gap = "" if arm.difference is None else difference(arm.difference)
    return estimate(arm.select[metric]), gap, arm.outcome or ""


def _cross_table(winners: Mapping[str, Winner], width: int | None) -> str:
    """Table of every winner under every metric of CROSS_METRICS."""
    # A metric that the data do not have leaves its cell empty.
    rows = [
        (
            objective,
            *(
                percent(winner.replicates.select[m].value) if m in winner.replicates.select else ""
                for m in CROSS_METRICS
            ),
        )
        for objective, winner in winners.items()
    ]
    return table(
        (Column("winner of \\ metric, %"), *(Column(m, right=True) for m in CROSS_METRICS)), rows, width
    )


def _next(document: ShowDocument, width: int | None) -> str:
    name = document.sweep
    winners = [objective for objective, result in document.objectives.items() if result.winner is not None]
    if document.state == "finished" and winners:
        which = f" --objective {winners[0]}" if len(document.objectives) > 1 else ""
        steps = (
            (
                f"selmix pin {name}{which} --name NAME",
                "evaluate winner and baselines on test, keep the model",
            ),
            ("selmix ui", "every run and round in MLflow"),
        )
        return "\n".join(
            paragraph("next" if number == 0 else "", f"{command}: {purpose}", width)
            for number, (command, purpose) in enumerate(steps)
        )
    if document.state == "running" and document.progress.eta_s is not None:
        return paragraph("next", f"about {document.progress.eta_s:.0f} s left", width)
    if document.cancelled:
        return paragraph("next", "it was cancelled for good; launch it under a new name (name=NEW)", width)
    if document.state == "stopped":
        return paragraph("next", "selmix launch FILE, the same file again: resume", width)
    failed = next((trial.trial_id for trial in document.trials if trial.state == "FAILED"), None)
    if document.state == "failed" and failed is not None:
        return paragraph("next", f"selmix logs {name} {failed}: the traceback of a failed trial", width)
    return ""
