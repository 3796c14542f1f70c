"""What fine-tuning for one objective does to the others: each objective's value under every objective's own run.

    python benchmarks/objectives.py --world digits    --seeds 0 1 2 3 4 [--json]
    python benchmarks/objectives.py --world gaussians --seeds 0 1 2 3 4

The product's defaults on the data of the product (`digits`: sweeps/digits_min_recall.yaml), the round chosen on select
by the objective's own metric, judged on test; means over the seeds. Rows are what was fine-tuned for, with three
baselines below; columns are metrics. A constrained objective says in how many seeds its constraint held on test.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository's root, where `benchmarks` lies

import torch

from benchmarks.harness import Row, base_of, values
from benchmarks.settings import GAUSSIANS, PRODUCT
from selmix.baselines import BASELINES, BaselineTask
from selmix.config import FinetuneConfig
from selmix.metrics import metric_of_objective
from selmix.run import finetune
from selmix.selection import Constraint, SelectionRule

WORLDS = {"digits": PRODUCT, "gaussians": GAUSSIANS}
FLOOR = 0.95
COLUMNS = (
    "min_recall",
    "cvar_recall",
    "mean_recall",
    "g_mean",
    "h_mean",
    "q_mean",
    "macro_f1",
    "min_coverage",
)
OBJECTIVES = (*COLUMNS[:-1], "mean_recall_min_coverage", "min_precision")
BELOW = ("untouched", "last_layer_on_train_plus_feedback", "retrained_logit_adjusted")


def rule_of(objective: str, num_classes: int) -> SelectionRule:
    """The objective's own metric; a coverage objective with the bound it stands for."""
    constrained = objective.endswith("_min_coverage")
    bounds = (Constraint("min_coverage", at_least=FLOOR / num_classes),) if constrained else ()
    return SelectionRule(metric_of_objective(objective), constraints=bounds)


def rows_of_seed(world: str, seed: int) -> list[Row]:
    """Every objective and baseline of one seed, on select and on test."""
    torch.set_num_threads(1)
    source = WORLDS[world].data(seed)
    data, test = source.load(), source.load_test()
    rows: list[Row] = []
    for objective in OBJECTIVES:
        rule = rule_of(objective, data.num_classes)
        base = base_of(WORLDS[world].model, data, seed, rule)
        run = finetune(data, base, objective, FinetuneConfig(), seed, rule)
        if run.best is None or run.failed:
            raise SystemExit(f"seed {seed}, {objective}: {run.stop_reason}")
        task = BaselineTask(data, base, objective, rule, (seed,), FinetuneConfig(), ())
        rows.append(_row("selmix", objective, seed, task, run.best.state, test))
        if objective == "min_recall":
            rows += [_row(name, None, seed, task, BASELINES[name](task).states[0], test) for name in BELOW]
    return rows


def _row(
    method: str, objective: str | None, seed: int, task: BaselineTask, state: object, test: object
) -> Row:
    return {
        "method": method, "objective": objective, "seed": seed,
        "select": values(task, state, task.data.select), "test": values(task, state, test),  # type: ignore[arg-type]
    }  # fmt: skip


def report(rows: list[Row], floor: float, as_json: bool) -> None:
    names = list(dict.fromkeys((row["method"], row["objective"]) for row in rows))
    table: dict[str, dict[str, float]] = {}
    for method, objective in names:
        chosen = [row for row in rows if (row["method"], row["objective"]) == (method, objective)]
        table[objective or method] = {m: statistics.mean(row["test"][m] for row in chosen) for m in COLUMNS}
    if as_json:
        figures = {
            f"{name}/{metric}": value for name, each in table.items() for metric, value in each.items()
        }
        print(json.dumps({"figures": figures, "rows": rows}))
        return
    width = max(map(len, table))
    print("fine-tuned for \\ test, %".ljust(width), *(f"{metric:>12}" for metric in COLUMNS))
    for name, each in table.items():
        print(name.ljust(width), *(f"{100 * each[metric]:12.1f}" for metric in COLUMNS))
    held = [
        row["test"]["min_coverage"] >= floor for row in rows if row["objective"] == "mean_recall_min_coverage"
    ]
    print(
        f"mean_recall_min_coverage: coverage >= {100 * floor:.1f} % on test in {sum(held)} of {len(held)} seeds"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", choices=WORLDS, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ProcessPoolExecutor(max_workers=2) as pool:
        parts = list(pool.map(partial(rows_of_seed, options.world), options.seeds))
    classes = len(WORLDS[options.world].data(0).class_names)
    report([row for part in parts for row in part], FLOOR / classes, options.json)


if __name__ == "__main__":
    main()
