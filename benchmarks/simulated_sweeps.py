"""Verdicts on simulated sweeps, and the share of them that is true.

    python benchmarks/simulated_sweeps.py [--sweeps 200] [--samples 24 100 500 2000] [--jobs 2]

A sweep has twelve rows of ten classes: a winner and eleven baselines whose recalls differ by a standard deviation of .2
on the logit scale, around .85; of a pair of rows 80 % of the samples have the same draw. The winner's recalls are moved
so that its true min recall is that of the truly best baseline, or 5 or 10 percentage points above. The opponent is
chosen by the bagged score on 24 samples a class; the verdict is on fresh samples. `better` is true if the winner is
truly better than every baseline, `worse` if some baseline is truly better, `tied` if no baseline is better by the
margin and the opponent not worse by it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import torch
from torch import Tensor

from selmix.metrics import MetricContext, Predictions
from selmix.statistics.comparison import paired_difference
from selmix.statistics.intervals import Estimate
from selmix.statistics.selection import SelectionRule, score
from selmix.statistics.verdict import MARGIN, judge

CLASSES, ROWS, SELECT = 10, 12, 24
CONTEXT = MetricContext(torch.full((CLASSES,), 100))
RULE = SelectionRule("min_recall")


def true_recalls(ahead: float, generator: torch.Generator) -> Tensor:
    """Recalls of the rows, shape (ROWS, CLASSES); the winner is row 0.

    Args:
        ahead: true min recall of the winner minus that of the best baseline.
        generator: source of the draws.
    """
    noise = torch.randn(ROWS, CLASSES, generator=generator, dtype=torch.float64)
    common = torch.logit(torch.tensor(0.85, dtype=torch.float64)) + 0.3 * torch.randn(
        CLASSES, generator=generator, dtype=torch.float64
    )
    recalls = torch.sigmoid(common + 0.2 * noise)
    goal = float(recalls[1:].amin(dim=1).max()) + ahead
    low, high = -10.0, 10.0
    # The shift of the winner's logits that has this min recall, by bisection: it rises with the shift.
    for _ in range(60):
        middle = (low + high) / 2.0
        reached = float(torch.sigmoid(torch.logit(recalls[0]) + middle).min())
        low, high = (middle, high) if reached < goal else (low, middle)
    recalls[0] = torch.sigmoid(torch.logit(recalls[0]) + low)
    return recalls


def draw(recalls: Tensor, samples: int, generator: torch.Generator) -> list[Predictions]:
    """Predictions of the rows on ``samples`` samples of each class."""
    labels = torch.arange(CLASSES).repeat_interleave(samples)
    common = torch.rand(len(labels), generator=generator, dtype=torch.float64)
    elsewhere = torch.randint(1, CLASSES, (len(labels),), generator=generator)
    rows = []
    for row in recalls:
        own = torch.rand(len(labels), generator=generator, dtype=torch.float64)
        # Both of a pair must take the common draw for it to be shared.
        shared = torch.rand(len(labels), generator=generator, dtype=torch.float64) < 0.8**0.5
        right = torch.where(shared, common, own) < row[labels]
        predicted = torch.where(right, labels, (labels + elsewhere) % CLASSES)
        rows.append(Predictions(labels, predicted, torch.full((len(labels),), 0.5)))
    return rows


def sweep(samples: int, ahead: float, seed: int) -> tuple[str, bool]:
    """Outcome of one sweep, and whether it is true."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    recalls = true_recalls(ahead, generator)
    select = draw(recalls, SELECT, generator)
    against = max(range(1, ROWS), key=lambda row: score(RULE, select[row], CONTEXT))
    rows = draw(recalls, samples, generator)

    def interval(name: str, level: float) -> Estimate:
        return paired_difference("min_recall", [rows[0]], [rows[int(name)]], CONTEXT, level)

    outcome = judge(interval, tuple(str(row) for row in range(1, ROWS)), str(against), MARGIN).outcome
    least = recalls.amin(dim=1)
    best = float(least[1:].max())
    # Equal to the best baseline up to the bisection's rounding counts as neither better nor worse.
    true = {
        "better": float(least[0]) > best + 1e-9,
        "worse": best > float(least[0]) + 1e-9,
        "tied": float(least[0]) > best - MARGIN and float(least[0] - least[against]) < MARGIN,
        "undecided": True,
    }
    return outcome, true[outcome]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument("--samples", type=int, nargs="+", default=[24, 100, 500, 2000])
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    outcomes = ("better", "tied", "undecided", "worse")
    print("| winner ahead by, pp | test samples a class | " + " | ".join(outcomes) + " | untrue |")
    print("|---|---|" + "---|" * (len(outcomes) + 1))
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for ahead in (0.0, 0.05, 0.10):
            for samples in arguments.samples:
                done = list(pool.map(partial(sweep, samples, ahead), range(arguments.sweeps), chunksize=5))
                counts = Counter(outcome for outcome, _ in done)
                untrue = sum(not true for _, true in done)
                cells = [f"{100 * counts[each] / len(done):.1f} %" for each in outcomes]
                print(
                    f"| {100 * ahead:g} | {samples:,} | {' | '.join(cells)} | {untrue} of {len(done)} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
