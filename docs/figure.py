"""Draws the figure of the README: the winner of a sweep beside every baseline, with intervals, on select.

selmix show digits_min_recall --json | python docs/figure.py docs/digits_min_recall.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot

pyplot.rcParams.update({"svg.hashsalt": "selmix", "svg.fonttype": "none", "font.size": 9})
COLOURS = {"winner": "#c2410c", "baseline": "#334155", "reference": "#94a3b8"}


def rows_of(document: dict[str, Any], objective: str) -> list[tuple[str, dict[str, float], str]]:
    """(label, estimate, kind) of the winner and of the finished baselines, the best first."""
    result = document["objectives"][objective]
    metric, winner = result["metric"], result["winner"]
    rows = [(f"SelMix: {winner['trial_id'].split('/')[1]}", winner["replicates"]["select"][metric], "winner")]
    for name, row in result["baselines"].items():
        if row["state"] == "FINISHED":
            kind = "reference" if row["reference"] else "baseline"
            rows.append((name + (" (reference)" if row["reference"] else ""), row["select"][metric], kind))
    return sorted(rows, key=lambda row: row[1]["value"])


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
    verdict = result["verdict"]
    axes.set_title(
        f"{document['sweep']}: {verdict['outcome'].upper()} with {verdict['against']}"
        if verdict["outcome"] == "tied"
        else f"{document['sweep']}: {verdict['outcome'].upper()} than {verdict['against']}",
        loc="left", fontsize=10,
    )  # fmt: skip
    figure.savefig(Path(sys.argv[1]), metadata={"Date": None})


if __name__ == "__main__":
    main()
