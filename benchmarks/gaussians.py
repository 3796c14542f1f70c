"""SelMix and every baseline on six Gaussians of unequal spread, beside the best linear head that exists.

    python benchmarks/gaussians.py --seeds 0 1 2 3 4 [--json] [--keep FILE]

The model is a linear head over the raw features, so the best value of an objective can be computed: by direct
optimisation on 20,000 samples a class (benchmarks/optimum.py). The last line of each objective says what share of
the distance from last_layer_on_train_plus_feedback to that optimum each method closes, as a ratio of means over the
seeds. The product's defaults, 100 feedback samples a class, the round chosen on select, judged on 2,000 test samples
a class.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository's root, where `benchmarks` lies

import torch

from benchmarks.harness import REFERENCES, Row, by_seed, compare, report
from benchmarks.settings import GAUSSIANS
from selmix.objectives import metric_of_objective

FLOOR = "last_layer_on_train_plus_feedback"


def shares_closed(rows: list[Row], objective: str) -> dict[str, float]:
    """(method - floor) / (optimum - floor) of the means over seeds, by method."""
    metric = metric_of_objective(objective)
    names = dict.fromkeys(row["method"] for row in rows if row["objective"] == objective)
    mean = {name: statistics.mean(by_seed(rows, name, objective, metric).values()) for name in names}
    distance = mean["optimum"] - mean[FLOOR]
    return {name: (mean[name] - mean[FLOOR]) / distance for name in names if name not in (FLOOR, *REFERENCES)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="file of the seeds that are done, to go on from")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = compare(GAUSSIANS, options.seeds, options.keep)
    closed = {objective: shares_closed(rows, objective) for objective in GAUSSIANS.objectives}
    report(
        GAUSSIANS,
        rows,
        options.json,
        {f"{o}/{m}/closed": v for o, each in closed.items() for m, v in each.items()},
    )
    if not options.json:
        for objective, shares in closed.items():
            told = ", ".join(f"{method} {100 * share:.0f} %" for method, share in shares.items())
            sys.stdout.write(f"{objective}: of the distance from {FLOOR} to the optimum: {told}\n")


if __name__ == "__main__":
    main()
