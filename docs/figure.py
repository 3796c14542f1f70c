"""Draws the figure of the README: SelMix and every baseline of a sweep on select, with intervals; the winner in colour.

selmix show fashion_min_recall --json | python docs/figure.py docs/fashion_min_recall.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot

from orchestrator.results.rows import SELMIX, said
from orchestrator.table import short

pyplot.rcParams.update({"svg.hashsalt": "selmix", "svg.fonttype": "none", "font.size": 9})
COLOURS = {"winner": "#c2410c", "baseline": "#334155", "reference": "#94a3b8"}


def rows_of(document: dict[str, Any], objective: str) -> list[tuple[str, dict[str, float], str]]:
    """(label, estimate, kind) of the best SelMix row and of the finished baselines, the best last.

    A row with fresh seeds is shown by their mean, as the table of `show` has it.
    """
    result = document["objectives"][objective]
    metric, winner = result["metric"], result["winner"]
    approach = winner.get("approach", SELMIX)
    rows = []
    if approach == SELMIX:
        label = f"SelMix: {short(winner.get('row') or winner['trial_id'])}"
        rows.append((label, winner["replicates"]["select"][metric], "winner"))
    else:
        chosen = (result.get("selmix") or {}).get("row")
        finals = [final for final in result["finalists"] if final["trial_id"] == chosen]
        rows += [(f"SelMix: {short(chosen)}", final["select"][metric], "baseline") for final in finals]
    for name, row in result["baselines"].items():
        if row["state"] == "FINISHED":
            kind = "reference" if row["reference"] else "winner" if name == approach else "baseline"
            rows.append((name + (" (reference)" if row["reference"] else ""), row["select"][metric], kind))
    return sorted(rows, key=lambda row: row[1]["value"])


def title_of(document: dict[str, Any], objective: str) -> str:
    """The verdict in a line; without one the name of the winner."""
    result = document["objectives"][objective]
    winner, verdict = result["winner"], result["verdict"]
    approach = winner.get("approach", SELMIX)
    name = "SelMix" if approach == SELMIX else approach
    if verdict is None:
        return f"{document['sweep']}: {name}"
    against = "SelMix" if verdict["against"] == SELMIX else verdict["against"]
    return f"{document['sweep']}: {name} {said(verdict['outcome'])} {against}"


def main() -> None:
    document = json.load(sys.stdin)
    objective = document["spec"]["objectives"][0]
    result = document["objectives"][objective]
    rows = rows_of(document, objective)
    figure, axes = pyplot.subplots(figsize=(7.2, 0.34 * len(rows) + 1.1), layout="constrained")
    for at, (_, value, kind) in enumerate(rows):
        axes.hlines(at, 100 * value["low"], 100 * value["high"], color=COLOURS[kind], linewidth=1.6)
        axes.plot(100 * value["value"], at, "o", color=COLOURS[kind], markersize=6)
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    for tick, (_, _, kind) in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(COLOURS[kind])
    axes.set_xlabel(f"{result['metric']} on select, %, with its 95 % interval")
    axes.set_xlim(10 * int(min(value["low"] for _, value, _ in rows) * 10), 100)
    axes.grid(axis="x", color="#e2e8f0")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    axes.set_title(title_of(document, objective), loc="left", fontsize=10)
    figure.savefig(Path(sys.argv[1]), metadata={"Date": None})


if __name__ == "__main__":
    main()
