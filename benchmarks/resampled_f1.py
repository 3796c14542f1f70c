"""Size of the resampled limits of a difference of macro F1 that an earlier version had, beside those of now.

    python benchmarks/resampled_f1.py [--repetitions 40000]

That version drew 1,000 Dirichlet weights for the samples of every class (a Bayesian bootstrap, always from seed 0) and
took the quantiles of the weighted difference. Since every comparison on as many samples has the same weights, all draws
are one matrix product here, and 40,000 comparisons take minutes. The cases are those of the power study, at the equal
recalls nearest to them: any verdict is wrong, and 5 % may be.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository's root, where `benchmarks` lies

import torch
from torch import Tensor

from benchmarks.power_study import CASES, CLASSES, Case, bound, draw
from selmix.metrics import MetricContext, Predictions
from selmix.statistics.comparison import paired_difference

DRAWS = 1000


def sample_weights(samples: int, draws: int = DRAWS) -> Tensor:
    """Weights of the samples, those of a class sum to their number, shape (draws, CLASSES * samples)."""
    generator = torch.Generator().manual_seed(0)
    ones = torch.ones(CLASSES * samples, dtype=torch.float64)
    weights = torch.stack([torch._standard_gamma(ones, generator=generator) for _ in range(draws)])
    of_classes = weights.view(draws, CLASSES, samples)
    return (of_classes / of_classes.sum(dim=2, keepdim=True) * samples).view(draws, -1)


def weighted_f1(weights: Tensor, predictions: Predictions) -> Tensor:
    """Macro F1 with each row of the weights, shape (draws,)."""
    count = len(predictions.labels)
    columns, hits = (torch.zeros((count, CLASSES), dtype=torch.float64) for _ in range(2))
    columns[torch.arange(count), predictions.predicted] = 1.0
    hits[torch.arange(count), predictions.labels] = predictions.correct.double()
    # Every row of the matrix sums to the number of its samples.
    f1: Tensor = 2.0 * (weights @ hits) / (count / CLASSES + weights @ columns)
    return f1.mean(dim=1)


def resampled_limits(weights: Tensor, a: Predictions, b: Predictions, alpha: float) -> tuple[float, float]:
    """Limits of the difference a - b of macro F1 by the quantiles of its draws.

    Args:
        weights: of the samples, shape (draws, n).
        a: one model.
        b: the other, on the same samples.
        alpha: 1 - the joint level of both limits.
    """
    ends = torch.tensor([alpha / 2.0, 1.0 - alpha / 2.0], dtype=torch.float64)
    low, high = torch.quantile(weighted_f1(weights, a) - weighted_f1(weights, b), ends).tolist()
    return low, high


@dataclass(frozen=True)
class Sizes:
    """Shares of wrong verdicts.

    Attributes:
        resampled: of the earlier limits.
        now: of those of now, on the same draws.
    """

    resampled: float
    now: float


def sizes(case: Case, recall: float, repetitions: int, seed: int) -> Sizes:
    """Count the verdicts between two models of equal recalls.

    Args:
        case: its samples and its correlation count.
        recall: of every class of both models.
        repetitions: number of comparisons.
        seed: of the draws.
    """
    weights, context = sample_weights(case.samples), MetricContext(torch.arange(CLASSES, 0, -1) * 10)
    generator = torch.Generator().manual_seed(seed)
    resampled = now = 0
    for _ in range(repetitions):
        a, b = draw(case, recall, recall, generator)
        low, high = resampled_limits(weights, a, b, 0.05)
        resampled += low > 0 or high < 0
        interval = paired_difference("macro_f1", [a], [b], context)
        now += interval.low > 0 or interval.high < 0
    return Sizes(resampled / repetitions, now / repetitions)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=40_000)
    repetitions = parser.parse_args().repetitions
    torch.set_num_threads(1)
    print("samples,recall,repetitions,resampled,now,error")
    # The nulls of the power study, which draws them one after the other.
    generator = torch.Generator().manual_seed(0)
    for case in CASES:
        recall = round(bound(case, generator)[1], 6)
        if case.metric == "macro_f1":
            found = sizes(case, recall, repetitions, 77)
            error = math.sqrt(0.05 * 0.95 / repetitions)
            print(case.samples, recall, repetitions, f"{found.resampled:.4f}", f"{found.now:.4f}",
                  f"{error:.4f}", sep=",", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
