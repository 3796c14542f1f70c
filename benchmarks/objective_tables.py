"""The tables of the objectives benchmark, from its rows."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.cases import REFERENCES, Case, World
from benchmarks.harness import Row, mean_gap, word
from selmix.metrics import METRICS

FLOOR = "last_layer_on_train_plus_feedback"


def values_by_seed(rows: list[Row], method: str, case: str | None, metric: str) -> dict[int, float]:
    """Test values of a method that was fitted for a case, by seed; None: of one that is the same for all cases."""
    return {
        row["seed"]: row["test"][metric]
        for row in rows
        if row["method"] == method and case in (None, row["case"])
    }


def verdicts(world: World, rows: list[Row]) -> dict[str, dict[str, Any]]:
    """For each case its own fine-tuning against the best opponent by its mean on test, paired over seeds.

    Differences are turned so that higher is better.
    """
    told: dict[str, dict[str, Any]] = {}
    for case in _cases_of(world, rows):
        ours = values_by_seed(rows, "selmix", case.name, case.metric)
        sign = -1.0 if METRICS[case.metric].minimise else 1.0
        theirs = {name: values_by_seed(rows, name, case.name, case.metric) for name in world.opponents}
        best = max(theirs, key=lambda name: sign * statistics.mean(theirs[name].values()))
        gap, low, high = mean_gap([sign * (ours[seed] - theirs[best][seed]) for seed in ours])
        told[case.name] = {
            "metric": case.metric, "selmix": statistics.mean(ours.values()), "opponent": best,
            "opponent_value": statistics.mean(theirs[best].values()), "gap": gap, "low": low, "high": high,
            "says": word(low, high), "seeds": len(ours),
        }  # fmt: skip
    return told


def shares_closed(world: World, rows: list[Row]) -> dict[str, dict[str, float]]:
    """(method - floor) / (optimum - floor) of the means over seeds, by case and method."""
    closed: dict[str, dict[str, float]] = {}
    for case in _cases_of(world, rows):
        mean = {
            name: statistics.mean(values_by_seed(rows, name, case.name, case.metric).values())
            for name in ("selmix", *world.opponents, "optimum")
        }
        distance = mean["optimum"] - mean[FLOOR]
        closed[case.name] = {"floor": mean[FLOOR], "distance": distance} | {
            name: (mean[name] - mean[FLOOR]) / distance for name in mean if name not in (FLOOR, "optimum")
        }
    return closed


def figures(world: World, rows: list[Row]) -> dict[str, float]:
    """Every figure of the tables by a name."""
    found: dict[str, float] = {}
    cases = _cases_of(world, rows)
    for label, method, case in _lines(world, rows):
        for column in cases:
            values = values_by_seed(rows, method, case or _fitted_for(world, method, column), column.metric)
            found[f"{label}/{column.name}"] = statistics.mean(values.values())
    for name, told in verdicts(world, rows).items():
        found |= {f"{name}/{key}": told[key] for key in ("gap", "low", "high")}
    if world.best is not None:
        closed = shares_closed(world, rows)
        found |= {f"{name}/{m}/closed": v for name, each in closed.items() for m, v in each.items()}
    for name, fidelity in _fidelity(world, rows).items():
        found |= {f"{name}/{key}": value for key, value in fidelity.items()}
    return found


def tables(world: World, rows: list[Row]) -> str:
    """All tables as Markdown."""
    parts = [_values_table(world, rows), _verdict_table(world, rows)]
    if world.best is not None:
        parts.append(_closed_table(world, rows))
    if any(row["bounds"] for row in rows):
        parts.append(_bounds_table(rows))
    parts.append(_fidelity_table(world, rows))
    return "\n\n".join(parts)


def _cases_of(world: World, rows: list[Row]) -> list[Case]:
    """The cases that every seed of the rows has."""
    seeds = {row["seed"] for row in rows}
    having = {(row["case"], row["seed"]) for row in rows}
    return [case for case in world.cases if all((case.name, seed) in having for seed in seeds)]


def _fitted_for(world: World, method: str, column: Case) -> str | None:
    return column.name if method in world.opponents or method == "optimum" else None


def _lines(world: World, rows: list[Row]) -> list[tuple[str, str, str | None]]:
    """(label, method, case or None: fitted for each column)."""
    own = [(case.name, "selmix", case.name) for case in _cases_of(world, rows)]
    methods = dict.fromkeys(row["method"] for row in rows if row["method"] != "selmix")
    order = ("untouched", *world.opponents, *REFERENCES)
    return [*own, *((name, name, None) for name in order if name in methods)]


def _values_table(world: World, rows: list[Row]) -> str:
    cases = _cases_of(world, rows)
    head = ["fine-tuned for \\ test, %", *(case.name for case in cases), *world.also]
    body = []
    for label, method, case in _lines(world, rows):
        cells = [label if method == "selmix" else f"*{label}*"]
        for column in cases:
            values = values_by_seed(rows, method, case or _fitted_for(world, method, column), column.metric)
            text = f"{100 * statistics.mean(values.values()):.1f}"
            cells.append(f"**{text}**" if case == column.name else text)
        for metric in world.also:
            values = values_by_seed(rows, method, case or _fitted_for(world, method, cases[0]), metric)
            cells.append(f"{100 * statistics.mean(values.values()):.1f}")
        body.append(cells)
    return _markdown(head, body)


def _verdict_table(world: World, rows: list[Row]) -> str:
    head = ["objective", "own fine-tuning, %", "best baseline", "its value, %", "difference [95 %]", "says"]
    body = [
        [name, f"{100 * told['selmix']:.1f}", told["opponent"], f"{100 * told['opponent_value']:.1f}",
         f"{100 * told['gap']:+.1f} [{100 * told['low']:+.1f}, {100 * told['high']:+.1f}]", told["says"]]
        for name, told in verdicts(world, rows).items()
    ]  # fmt: skip
    return _markdown(head, body)


def _closed_table(world: World, rows: list[Row]) -> str:
    names = ["selmix", *(name for name in world.opponents if name != FLOOR)]
    head = ["objective", "retrained last layer, %", "distance to the optimum", *names]
    body = [
        [name, f"{100 * each['floor']:.1f}", f"{100 * each['distance']:.1f}",
         *(f"{100 * each[m]:.0f} %" for m in names)]
        for name, each in shares_closed(world, rows).items()
    ]  # fmt: skip
    return _markdown(head, body)


def _bounds_table(rows: list[Row]) -> str:
    head = [
        "objective",
        "method",
        "seed",
        "metric",
        "bound, %",
        "test, % [95 %]",
        "feasible on select",
        "says",
    ]
    body, said = [], []
    for row in rows:
        for bound in row["bounds"]:
            if row["method"] == "selmix":
                said.append(bound["says"])
            sign = ">=" if bound["kind"] == "at_least" else "<="
            body.append([
                row["case"], row["method"], str(row["seed"]), bound["metric"], f"{sign} {100 * bound['bound']:.1f}",
                f"{100 * bound['value']:.1f} [{100 * bound['low']:.1f}, {100 * bound['high']:.1f}]",
                {True: "yes", False: "no", None: ""}[row.get("feasible")], bound["says"],
            ])  # fmt: skip
    counts = ", ".join(f"{said.count(key)} {key}" for key in ("holds", "within error", "missed"))
    return _markdown(head, body) + f"\n\nOf {len(said)} constrained fine-tunings on test: {counts}."


def _fidelity(world: World, rows: list[Row]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for case in _cases_of(world, rows):
        for key in ("gain_spearman", "gain_pearson"):
            told = [row["fidelity"][key] for row in rows if row["case"] == case.name and "fidelity" in row]
            values = [value for value in told if value is not None]
            if values:
                mean = {key: statistics.mean(values), f"{key}/lowest": min(values)}
                found[case.name] = found.get(case.name, {}) | mean
    return found


def _fidelity_table(world: World, rows: list[Row]) -> str:
    keys = ("gain_spearman", "gain_spearman/lowest", "gain_pearson", "gain_pearson/lowest")
    head = ["objective", "Spearman", "lowest seed", "Pearson", "lowest seed"]
    told = _fidelity(world, rows)
    body = [[name, *(f"{each[k]:.2f}" if k in each else "" for k in keys)] for name, each in told.items()]
    return _markdown(head, body)


def _markdown(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
