"""Documents as text for a terminal: what was asked, what won, against what, is it real, what next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.results.compare import comparison_caption, comparison_rows
from orchestrator.results.departures import departure_note
from orchestrator.table import difference, estimate, short, table

ACROSS = ("mean_recall", "min_recall", "g_mean", "h_mean", "accuracy", "min_coverage")
BOLD, PLAIN = "\x1b[1m", "\x1b[0m"
Document = Mapping[str, Any]


def show_text(document: Document, colour: bool = False) -> str:
    """The result of a sweep; its first line is the answer."""
    blocks = [_headline(document, colour), _asked(document)]
    results: dict[str, Document] = document["objectives"]
    for objective, result in results.items():
        if result["winner"] is None:
            blocks.append(f"{objective}: {_undecided(document, result)}")
        else:
            blocks.append(_objective(document, objective, result))
    if len(results) > 1 and any(result["winner"] for result in results.values()):
        blocks.append(_across(results))
    blocks.append(_next(document))
    return "\n\n".join(block for block in blocks if block)


def _headline(document: Document, colour: bool) -> str:
    lines = []
    for objective, result in document["objectives"].items():
        if result["winner"] is not None:
            lines.append(f"{objective}: {answer(result)}")
    if not lines:
        done = document["progress"]
        lines.append(
            f"{document['sweep']} is {document['state']}: {done['finished']} of {done['total']} runs finished"
        )
    if document["problem"]:
        lines.append(str(document["problem"]))
    return "\n".join(f"{BOLD}{line}{PLAIN}" if colour else line for line in lines)


def answer(result: Document) -> str:
    """The verdict in a sentence."""
    verdict, winner = result["verdict"], result["winner"]
    who = f"{short(winner['trial_id'])}{' (the defaults)' if winner['is_default'] else ''}"
    if verdict is None:
        return f"{who} won; no baseline could be fitted to compare it with"
    gap = difference(verdict["difference"])
    against = verdict["against"]
    if verdict["outcome"] == "better":
        return f"BETTER: {who} is {gap} points above the best baseline, {against}, on select"
    if verdict["outcome"] == "worse":
        return f"WORSE: the baseline {against} is better than the winner {who}: {gap} points on select"
    cheaper = ", and cheaper" if verdict["against_is_cheaper"] else ""
    return f"TIED: the baseline {against} is as good as the winner {who}{cheaper}: {gap} points on select"


def _asked(document: Document) -> str:
    spec, data, base = document["spec"], document["data"], document["base"]
    if not data:
        return ""
    train = data["train_counts"]
    per_class = data["num_select"] // len(train)
    constraints = [_constraint(c) for c in spec["constraints"]]
    made = base.get("checkpoint") or f"pre-trained by {base.get('recipe')}"
    done = document["progress"]
    lines = [
        f"asked     {', '.join(spec['objectives'])}"
        + (f"  subject to {', '.join(constraints)}" if constraints else ""),
        f"data      {spec['data']['name']}: {len(train)} classes, {max(train)} to {min(train)} training samples, "
        f"{per_class} select samples a class (a recall moves in steps of {100 / per_class:.1f} points)",
        f"model     {spec['model']['name']}, {made}",
        *(
            f"compared  {name}: {', '.join(map(_plain, values))}"
            for name, values in spec.get("compare", {}).items()
        ),
        f"searched  {', '.join(_searched(spec)) or 'nothing: the defaults only'}",
        f"runs      {done['finished']} finished, {done['failed']} failed, of {done['total']} (trials, and finalists "
        f"on {spec['selection']['replicates']} fresh seeds){_lost(document['trials'])}",
    ]
    return "\n".join(lines)


def _lost(trials: list[Document]) -> str:
    losses = sum(trial["losses"] for trial in trials)
    if not losses:
        return ""
    lost_s = sum(trial["lost_s"] for trial in trials)
    return f"; {losses} broke off with a worker or node and went on, {lost_s:.0f} s were run again"


def _constraint(constraint: Document) -> str:
    sign, bound = (
        (">=", constraint["at_least"])
        if constraint["at_least"] is not None
        else ("<=", constraint["at_most"])
    )
    return f"{constraint['metric']} {sign} {bound:g}"


def _searched(spec: Document) -> list[str]:
    return [name for name, parameter in spec["parameters"].items() if "value" not in parameter]


def _undecided(document: Document, result: Document) -> str:
    if result["feasible"] is False:
        return "no trial meets the constraints"
    if document["state"] == "finished":
        return "no finalist could be run on its fresh seeds"
    return "not decided yet"


def _objective(document: Document, objective: str, result: Document) -> str:
    metric, winner = result["metric"], result["winner"]
    seeds = len(winner["replicates"]["seeds"])
    rows = [(
        f"winner {short(winner['trial_id'])}", winner["replicates"]["select"][metric], winner["replicates"]["score"],
        "+".join(winner["labels"]), f"{winner['cost_s']:.1f} s",
    )]  # fmt: skip
    others = sorted(result["baselines"].items(), key=lambda item: -(item[1]["score"] or -1e9))
    for name, row in others:
        if row["state"] == "FINISHED":
            mark = " (reference)" if row["reference"] else ""
            each = row["cost_s"] / max(1, len(row["seeds"]))
            rows.append(
                (
                    f"{name}{mark}",
                    row["select"][metric],
                    row["score"],
                    "+".join(row["labels"]),
                    f"{each:.1f} s",
                )
            )
        else:
            rows.append((name, None, None, f"failed: {row['error']}", ""))
    head = (f"{metric} on select, %", "value  [95 % interval]", "score", "labels used", "cost a run")
    lines = [table(head, [_cells(*row) for row in rows])]
    lines.append(
        f"winner    {short(winner['trial_id'])}, seed {winner['seed']}, round {winner['round']} "
        f"({winner['steps']} steps), {estimate(winner['select'][metric]).strip()} on its own seed; "
        f"the table has its mean over {seeds} fresh seeds"
    )
    lines.append(f"          {_settings(document['spec'], winner['config'])}")
    if note := departure_note(winner["config"]):
        lines.append(f"          {note}")
    lines.append(f"is it real?  {_real(result)}")
    lines.append(f"search    {_search(result)}")
    if result.get("compare"):
        cells = comparison_rows(result["compare"], metric)
        lines += [
            "",
            comparison_caption(result["compare"], seeds),
        ]
        lines.append(table(cells[0], cells[1:]))
    return f"{objective}\n" + "\n".join(lines)


def _cells(
    name: str, select: Document | None, score: float | None, labels: str, cost: str
) -> tuple[str, ...]:
    shown = "" if select is None else estimate(select)
    return name, shown, "" if score is None else f"{100 * score:5.1f}", labels, cost


def _settings(spec: Document, config: Document) -> str:
    names = [*spec.get("compare", {}), *_searched(spec)] or ["lr", "steps"]
    return ", ".join(f"{name} {_plain(config[name])}" for name in names)


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _real(result: Document) -> str:
    verdict = result["verdict"]
    if verdict is None:
        return "there is no baseline to compare with"
    says = {
        "better": "yes as far as select tells: the paired interval leaves 0 out",
        "tied": "nothing separates them: the paired interval contains 0",
        "worse": "the baseline is ahead: the paired interval lies below 0",
    }[verdict["outcome"]]
    return (
        f"winner minus {verdict['against']}: {difference(verdict['difference'])} points, paired over the same samples "
        f"and seeds; {says}. Optimistic: both were chosen on these samples. `selmix pin` judges on test"
    )


def _search(result: Document) -> str:
    added = result["search_added"]
    tied = ", ".join(short(name) for name in result["tied"])
    if added is None:
        return f"tied: {tied}"
    says = "earned its keep" if added["low"] > 0 else "added nothing clear"
    return (
        f"{says} over the defaults: {short(added['trial_id'])} is {difference(added)} points from them over fresh "
        f"seeds; tied: {tied}"
    )


def _across(results: Mapping[str, Document]) -> str:
    rows = []
    for objective, result in results.items():
        if result["winner"] is not None:
            select = result["winner"]["replicates"]["select"]
            rows.append((objective, *(f"{100 * select[m]['value']:5.1f}" for m in ACROSS if m in select)))
    return table(("winner of \\ under, %", *ACROSS), rows)


def _next(document: Document) -> str:
    name = document["sweep"]
    if document["state"] == "finished":
        lines = [
            f"next      selmix pin {name} --name NAME    judge winner and baselines on test, keep the model",
            "          selmix ui                           every run and round in MLflow",
        ]
        return "\n".join(lines)
    if document["state"] == "running":
        eta = document["progress"]["eta_s"]
        return f"next      about {eta:.0f} s left" if eta is not None else ""
    return "next      launch the same file again to go on" if document["state"] == "stopped" else ""


def ls_text(document: Document) -> str:
    """One line a sweep."""
    if not document["sweeps"]:
        return f"no sweeps in {document['runs']}; selmix launch FILE begins one"
    rows = []
    for sweep in document["sweeps"]:
        done = sweep["progress"]
        results = sweep["objectives"] or {"": None}
        for objective, result in results.items():
            cells = ("", "", "")
            if result is not None and result["winner"] is not None:
                verdict = result["verdict"]
                says = f"{verdict['outcome']} vs {verdict['against']}" if verdict else ""
                cells = (short(result["winner"]), f"{objective} {100 * result['value']:.1f}", says)
            count = f"{done['finished']}/{done['total']}" + (
                f", {done['failed']} failed" if done["failed"] else ""
            )
            rows.append((sweep["sweep"], sweep["state"], count, *cells, sweep["created"]))
    return table(("sweep", "state", "runs", "winner", "select, %", "verdict", "created"), rows)


def pins_text(document: Document) -> str:
    """One line a pin."""
    if not document["pins"]:
        return "no pins yet; selmix pin SWEEP --name NAME writes one"
    rows = []
    for pin in document["pins"]:
        if "problem" in pin:
            rows.append((pin["name"], pin["problem"], "", "", "", ""))
            continue
        verdict = pin["verdict"]
        says = (
            f"{verdict['outcome']} vs {verdict['against']}, {difference(verdict['difference'])}"
            if verdict
            else ""
        )
        edited = f"EDITED: {', '.join(pin['edited'])}" if pin["edited"] else pin["created"]
        what = short(pin["trial_id"]) + ("" if pin["is_winner"] else " (not the winner)")
        rows.append(
            (
                pin["name"],
                pin["sweep"],
                what,
                f"{pin['metric']} {estimate(pin['test']).strip()}",
                says,
                edited,
            )
        )
    return table(("pin", "sweep", "trial", "test, %", "verdict on test", "created"), rows)
