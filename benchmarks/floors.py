"""Least recall that a floor on it reaches, from floors within reach to one that no model can meet.

    python benchmarks/floors.py --seeds 1 2 3 4 5 6 7 8 9 10 [--json]

Six Gaussians of unequal spread, 1,000 test samples a class, a linear head from the untouched start model, the
defaults otherwise; objective mean_recall with {metric: min_recall, at_least: b} inside the method, the last round's
model on test. A floor out of reach must do no worse than one in reach: asking for more must not give less. Beside it
the same without a floor, the objective min_recall, and the best linear head for it (benchmarks/optimum.py).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository's root, where `benchmarks` lies

import torch

from benchmarks.optimum import hard_counts, optimum
from selmix.config import FinetuneConfig
from selmix.data.gaussians import GaussiansConfig
from selmix.data.splits import Split, SweepData
from selmix.metrics import MetricContext, compute_metric
from selmix.models import ModelConfig
from selmix.pretrain import pretrain
from selmix.run.run import finetune
from selmix.run.start_model import Base
from selmix.statistics.selection import Constraint, SelectionRule

FLOORS = (0.4, 0.5, 0.6, 0.9)
METRIC = "min_recall"
FIT = 4000  # samples a class for the best linear head: enough for 54 weights
MODEL = ModelConfig("linear_head")


def least_recalls(seed: int) -> dict[str, float]:
    """Least recall on test by row: ``none``, a floor, ``min_recall`` as the objective, ``optimum``."""
    torch.set_num_threads(1)
    source = GaussiansConfig(seed=seed, test=1000)
    data, test = source.load(), source.load_test()
    base = Base(MODEL, pretrain("erm", MODEL, data, seed), {})
    found = {"none": _trained(data, test, base, "mean_recall", (), seed)}
    for floor in FLOORS:
        bound = Constraint(METRIC, at_least=floor, where=("method",))
        found[f"{floor:g}"] = _trained(data, test, base, "mean_recall", (bound,), seed)
    found[METRIC] = _trained(data, test, base, METRIC, (), seed)
    head = optimum(source, METRIC, FIT, 1).head
    counts = hard_counts(test, data.num_classes, head["weight"], head["bias"])
    found["optimum"] = float(compute_metric(METRIC, counts, MetricContext(data.train_counts)))
    return found


def _trained(
    data: SweepData, test: Split, base: Base, objective: str, bounds: tuple[Constraint, ...], seed: int
) -> float:
    rule = SelectionRule(METRIC, constraints=bounds)
    run = finetune(data, base, objective, FinetuneConfig(start="given"), seed, rule)
    head = run.view.head
    counts = hard_counts(test, data.num_classes, head.weight.detach(), head.bias.detach())
    return float(compute_metric(METRIC, counts, MetricContext(data.train_counts)))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; infinite of a single value."""
    if len(values) < 2:
        return values[0], math.inf
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1, 11)))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ProcessPoolExecutor(max_workers=2) as pool:
        rows = dict(zip(options.seeds, pool.map(least_recalls, options.seeds), strict=True))
    if options.json:
        sys.stdout.write(json.dumps({"least_recalls": rows}) + "\n")
        return
    sys.stdout.write("test min recall, %, mean over seeds; paired with the floor .5 (standard error)\n")
    best = statistics.mean(each["optimum"] for each in rows.values())
    for name in next(iter(rows.values())):
        mean = statistics.mean(each[name] for each in rows.values())
        gap, error = mean_and_error([each[name] - each["0.5"] for each in rows.values()])
        sys.stdout.write(
            f"  {name:12} {100 * mean:5.1f}   {100 * gap:+5.1f} ({100 * error:.1f})   "
            f"{100 * mean / best:4.0f} % of the best linear head\n"
        )


if __name__ == "__main__":
    main()
