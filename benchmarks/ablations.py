"""Which part of the method earns its keep: one thing changed at a time on long-tailed digits, paired by seed, on test.

    python benchmarks/ablations.py --setting method  [--axes core policy] [--seeds 0 1 ...] [--rows FILE] [--json]
    python benchmarks/ablations.py --setting product --objective mean_recall
    python benchmarks/ablations.py --setting semi
    python benchmarks/ablations.py --setting gaussians

`product`: the data of sweeps/digits_min_recall.yaml, the defaults, the round chosen on select. `method`: imbalance 50,
from the plain model, drawing from train, the last round counts. `semi`: 40 to 2 labelled samples a class, 60 unlabelled
ones; `semi_plain`: the same from the plain model, drawing from train, the last round counts. `gaussians`: six classes
of unequal spread, a linear head. No search: every arm is the setting with one thing changed; `core` is a grid of mixing
and policy, `backbones` the same for three rates of the backbone.
Seed s seeds split, pre-training and fine-tuning; the defaults were chosen on seeds 100 and up. With --rows every run
is kept in a file as it ends, and one that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository's root, where `benchmarks` lies

import torch

from benchmarks.axes import SETTINGS, Axis, Side, axes, configured
from benchmarks.contrast import family
from benchmarks.harness import Row, base_of, values
from selmix.baselines import BaselineTask
from selmix.data.splits import Split, SweepData
from selmix.objectives import metric_of_objective
from selmix.run.run import Run, finetune
from selmix.run.start_model import Base
from selmix.statistics.selection import SelectionRule

METRICS = ("min_recall", "mean_recall", "g_mean")
Task = tuple[str, str, int, dict[str, Any]]  # setting, objective, seed, settings that differ


def identity(setting: str, objective: str, seed: int, changes: Mapping[str, Any]) -> str:
    """What a run is told by: arms of several axes that come to the same settings are one run."""
    acting = configured(SETTINGS[setting].config, changes).acting(objective)
    return json.dumps([setting, objective, seed, acting], sort_keys=True)


@lru_cache(maxsize=64)
def start_of(setting: str, objective: str, seed: int) -> tuple[SweepData, Split, Base]:
    """Data, test split and base model of a seed; made once a process."""
    torch.set_num_threads(1)
    source = SETTINGS[setting].data(seed)
    data = source.load()
    base = base_of(SETTINGS[setting].model, data, seed, SelectionRule(metric_of_objective(objective)))
    return data, source.load_test(), base


def row_of(setting: str, objective: str, seed: int, changes: dict[str, Any]) -> Row:
    """One run on select and on test."""
    data, test, base = start_of(setting, objective, seed)
    config = configured(SETTINGS[setting].config, changes)
    rule = SelectionRule(metric_of_objective(objective))
    run = finetune(data, base, objective, config, seed, rule)
    if run.best is None:
        raise SystemExit(f"{setting}, seed {seed}, {changes}: {run.stop_reason}")
    # A run that diverged is judged by its best round before: what is left of it.
    last = SETTINGS[setting].last_round and not run.failed
    state = run.view.model.state_dict() if last else run.best.state
    task = BaselineTask(data, base, objective, rule, (seed,), config, ())
    return {
        "id": identity(setting, objective, seed, changes), "setting": setting, "objective": objective, "seed": seed,
        "changes": changes, "round": run.best.round, "stop_reason": run.stop_reason,
        "select": values(task, state, data.select), "test": values(task, state, test), **filed(run),
    }  # fmt: skip


def filed(run: Run) -> dict[str, float]:
    """Share of the unlabelled samples that were filed at last, share of those under their true label, and of the
    class of fewest filed samples its share; nothing where all samples were labelled."""
    second = run.finetuner.second
    if second is None:
        return {}
    labels, truth = second.state_dict()["labels"], second.samples.labels
    used = labels >= 0
    shares = [float(used[truth == k].double().mean()) for k in set(truth.tolist())]
    right = float((labels[used] == truth[used]).double().mean()) if bool(used.any()) else 0.0
    return {"used": float(used.double().mean()), "right": right, "used_of_least": min(shares)}


def tasks(setting: str, objective: str, chosen: Sequence[Axis], seeds: Sequence[int]) -> dict[str, Task]:
    """Every run that is asked for, once, by its identity."""
    asked: dict[str, Task] = {}
    for axis in chosen:
        for changes in axis.arms.values():
            for seed in seeds:
                task = (setting, objective, seed, dict(changes))
                asked.setdefault(identity(*task), task)
    return asked


def rows_of(asked: Mapping[str, Task], kept: Path | None) -> list[Row]:
    """The rows of all runs, two at a time; those in ``kept`` are read from it."""
    rows = {row["id"]: row for row in _stored(kept)} if kept is not None else {}
    left = {name: task for name, task in asked.items() if name not in rows}
    with ProcessPoolExecutor(max_workers=1) as even, ProcessPoolExecutor(max_workers=1) as odd:
        # A seed stays with its process, which so makes its base model once.
        futures: list[Future[Row]] = [
            (odd if task[2] % 2 else even).submit(row_of, *task) for task in left.values()
        ]
        for done, future in enumerate(as_completed(futures), start=1):
            row = future.result()
            rows[row["id"]] = row
            if kept is not None:
                with kept.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            print(f"{done} of {len(left)} runs: seed {row['seed']}, {row['changes']}", file=sys.stderr)
    return [rows[name] for name in asked]


def _stored(kept: Path) -> Iterator[Row]:
    if kept.is_file():
        for line in kept.read_text().splitlines():
            yield json.loads(line)


def measured(rows: Sequence[Row], axis: Axis, metric: str) -> dict[str, list[float]]:
    """Arm -> the metric on test, seed by seed."""
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    by_id = {row["id"]: row for row in rows}
    setting, objective = rows[0]["setting"], rows[0]["objective"]
    return {
        label: [by_id[identity(setting, objective, seed, changes)]["test"][metric] for seed in seeds]
        for label, changes in axis.arms.items()
    }


def gaps_of(by_arm: Mapping[str, Sequence[float]], ours: Side, theirs: Side) -> list[float]:
    """Mean over the arms of a side minus that of the other, seed by seed; rounding noise is no difference."""
    left, right = (
        [statistics.mean(each) for each in zip(*(by_arm[arm] for arm in side), strict=True)]
        for side in (ours, theirs)
    )
    return [round(a - b, 9) for a, b in zip(left, right, strict=True)]


def report(name: str, axis: Axis, rows: Sequence[Row]) -> tuple[list[str], dict[str, float]]:
    """A table for each metric, and the figures in it by name."""
    lines: list[str] = []
    figures: dict[str, float] = {}
    seeds = len({row["seed"] for row in rows})
    for metric in METRICS:
        by_arm = measured(rows, axis, metric)
        lines.append(
            f"\n{rows[0]['setting']}, {rows[0]['objective']}, {name}: test {metric}, %, mean over {seeds} seeds"
        )
        for label, each in by_arm.items():
            figures[f"{name}/{metric}/{label}"] = statistics.mean(each)
            lines.append(f"  {label:28} {100 * statistics.mean(each):5.1f}")
        for asked, contrasts in axis.families.items():
            lines.append(
                f"  {asked}: points [95 %], seeds better/tied/worse, outcome by Holm over {len(contrasts)}"
            )
            told = family({label: gaps_of(by_arm, *sides) for label, sides in contrasts.items()})
            for label, contrast in told.items():
                parts = asdict(contrast)
                outcome = parts.pop("outcome")
                figures |= {f"{name}/{metric}/{asked}/{label}/{part}": value for part, value in parts.items()}
                lines.append(
                    f"    {label:44} {100 * contrast.mean:+5.1f} [{100 * contrast.low:+5.1f}, "
                    f"{100 * contrast.high:+5.1f}]  {contrast.better}/{contrast.tied}/{contrast.worse}  {outcome}"
                )
    return lines, figures


def filed_lines(rows: Sequence[Row]) -> list[str]:
    """What became of the unlabelled samples, mean over the seeds."""
    arms: dict[str, list[Row]] = {}
    for row in rows:
        if "used" in row:
            arms.setdefault(json.dumps(row["changes"]), []).append(row)
    return [
        f"{changes}: filed at last {100 * _mean(each, 'used'):.1f} % (of the class of fewest "
        f"{100 * _mean(each, 'used_of_least'):.1f} %), {100 * _mean(each, 'right'):.1f} % of them rightly"
        for changes, each in arms.items()
    ]


def diverged_lines(rows: Sequence[Row]) -> list[str]:
    """The runs whose loss or logits stopped being finite."""
    return [
        f"{row['changes']}, seed {row['seed']}: {row['stop_reason']}, judged by its best round before, {row['round']}"
        for row in rows
        if row["stop_reason"].startswith("nonfinite")
    ]


def _mean(rows: Sequence[Row], key: str) -> float:
    return float(statistics.mean(row[key] for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setting", choices=SETTINGS, required=True)
    parser.add_argument("--objective", default="min_recall")
    parser.add_argument("--axes", nargs="+", metavar="AXIS", help="all of the setting's by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--rows", type=Path, metavar="FILE", help="keep every run there, and go on from it")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    known = axes(options.setting)
    if options.axes and not set(options.axes) <= set(known):
        parser.error(f"--axes: must be of {', '.join(known)}, got {', '.join(options.axes)}")
    if len(set(options.seeds)) < 2:
        parser.error("--seeds: two or more different seeds are needed for an interval")
    chosen = {name: known[name] for name in options.axes or known}
    rows = rows_of(
        tasks(options.setting, options.objective, list(chosen.values()), options.seeds), options.rows
    )
    lines = filed_lines(rows) + diverged_lines(rows)
    figures: dict[str, Any] = {}
    for name, axis in chosen.items():
        more, each = report(name, axis, rows)
        lines, figures = lines + more, figures | each
    print(json.dumps({"figures": figures, "rows": rows}) if options.json else "\n".join(lines).lstrip("\n"))


if __name__ == "__main__":
    main()
