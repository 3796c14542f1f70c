"""Power to see a true difference: the limits now, those of another version, and the best that any test could do.

    python benchmarks/power_study.py [--before PATH] [--repetitions 1000] [--only METRIC] [--out FILE]

Ten classes; each model is right on a sample of class k with the recall of the case, and a share of the samples (the
correlation) has the same draw for both: p11 = rho min(a, b) + (1 - rho) a b. "Same class": class 0 is the weak one of
both models; "other class": class 0 of ours, class 1 of theirs; the rest at .95. Power is the share of the samples on
which the interval lies above 0, size the same share where both models are as good as the nearest null makes them.

``--before`` names a directory with another version of the package, which sees the same draws in a process of its own.
Its difference is marked where it exceeds two standard errors, those of the draws on which the two versions disagree.

The bound is the power of the likelihood ratio of the alternative against nulls of equal metrics next to it, at the
one-sided size of .025 that a two-sided interval of 95 % has. No valid test has more; one that has to hold for all nulls
may have to have less.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import selmix
from selmix.metrics import MetricContext, Predictions

CLASSES = 10
STRONG = 0.95
SIZE = 0.025
DRAWS = 20_000  # of the likelihood ratio: a standard error of .0035
GRID = 41
SLOW = 5
"""Resampling takes 100 times as long as limits: another version's macro F1 has a fifth of the repetitions."""


@dataclass(frozen=True)
class Case:
    """A difference to be seen.

    Attributes:
        metric: a key of METRICS.
        weak: ``same`` or ``other`` class, or ``all``.
        ours: recall of our weak class, or of all.
        theirs: recall of theirs.
        samples: of each class.
        correlation: share of the samples with one draw for both models.
    """

    metric: str
    weak: str
    ours: float
    theirs: float
    samples: int
    correlation: float = 0.5

    def recalls(self, ours: float, theirs: float) -> Tensor:
        """Recalls of both models with these in place of those of the case, shape (2, K)."""
        if self.weak == "all":
            return torch.tensor([[ours] * CLASSES, [theirs] * CLASSES], dtype=torch.float64)
        values = torch.full((2, CLASSES), STRONG, dtype=torch.float64)
        values[0, 0], values[1, 0 if self.weak == "same" else 1] = ours, theirs
        return values

    def tables(self, ours: float, theirs: float) -> tuple[Tensor, int]:
        """Probabilities of (both, ours alone, theirs alone, neither) right, and the number of samples with each.

        Classes in which alternative and nulls are the same tell nothing, and classes that are alike are one.

        Returns:
            Shape (C, 4), float64, and the samples of each.
        """
        values = self.recalls(ours, theirs)
        a, b = values[:, : {"same": 1, "other": 2, "all": 1}[self.weak]]
        both = self.correlation * torch.minimum(a, b) + (1.0 - self.correlation) * a * b
        samples = self.samples * (CLASSES if self.weak == "all" else 1)
        # Rounding must not make a probability of 0 negative.
        table = torch.stack([both, a - both, b - both, 1.0 - a - b + both], dim=1).clamp_min(0.0)
        return table, samples


CASES = [
    *(Case("min_recall", "same", 0.8, 0.6, n) for n in (24, 50)),
    *(Case("min_recall", "same", 0.9, 0.8, n) for n in (50, 100)),
    *(Case("min_recall", "other", 0.8, 0.6, n) for n in (24, 50)),
    Case("cvar_recall", "same", 0.8, 0.6, 100, 0.8),
    Case("cvar_recall", "other", 0.8, 0.6, 100, 0.8),
    Case("cvar_recall", "all", 0.8, 0.7, 100, 0.8),
    *(Case("mean_recall", "all", 0.85, 0.8, n) for n in (24, 50)),
    *(Case("macro_f1", "all", 0.85, 0.8, n) for n in (24, 50)),
]


def draw(
    case: Case, ours: float, theirs: float, generator: torch.Generator
) -> tuple[Predictions, Predictions]:
    """Draw two models with these recalls in place of those of the case."""
    labels = torch.arange(CLASSES).repeat_interleave(case.samples)
    uniform = torch.rand((2, len(labels)), generator=generator, dtype=torch.float64)
    elsewhere = torch.randint(1, CLASSES, (2, len(labels)), generator=generator)
    shared = torch.rand(len(labels), generator=generator) < case.correlation
    uniform[1] = torch.where(shared, uniform[0], uniform[1])
    elsewhere[1] = torch.where(shared, elsewhere[0], elsewhere[1])
    right = uniform < case.recalls(ours, theirs)[:, labels]
    predicted = torch.where(right, labels, (labels + elsewhere) % CLASSES)
    confidence = torch.full((len(labels),), 0.5)
    return Predictions(labels, predicted[0], confidence), Predictions(labels, predicted[1], confidence)


def seen(case: Case, ours: float, theirs: float, repetitions: int, seed: int) -> str:
    """Verdicts of the package on the path: ``1`` for every draw on which the interval lies above 0, else ``0``."""
    # Not by trying: an editable install would find the room that an earlier package lacks.
    if (Path(selmix.__file__).parent / "statistics").is_dir():
        from selmix.statistics.comparison import paired_difference
    else:
        from selmix.comparison import paired_difference  # type: ignore[import-not-found, no-redef]

    context = MetricContext(torch.arange(CLASSES, 0, -1) * 10)
    generator = torch.Generator().manual_seed(seed)
    verdicts = []
    for _ in range(repetitions):
        a, b = draw(case, ours, theirs, generator)
        verdicts.append("1" if paired_difference(case.metric, [a], [b], context).low > 0 else "0")
    return "".join(verdicts)


def bound(case: Case, generator: torch.Generator, draws: int = DRAWS) -> tuple[float, float]:
    """Most power that a test of the size SIZE may have, and the recall of the null that says so.

    Args:
        case: the alternative.
        generator: of the draws.
        draws: of the alternative and of every null.
    Returns:
        Least power over single nulls of recall t on both sides and over mixtures of 3 and of 5 next to each other,
        and t (of the middle one).
    """
    table, samples = case.tables(case.ours, case.theirs)
    points = torch.linspace(case.theirs, case.ours, GRID, dtype=torch.float64)[1:-1]
    nulls = torch.stack([case.tables(float(t), float(t))[0] for t in points])
    of_alternative = _counts(table, samples, draws, generator)
    of_nulls = [_counts(null, samples, draws, generator) for null in nulls]
    least, where = 1.0, float(points[0])
    for reach in (0, 1, 2):
        for middle in range(reach, len(points) - reach):
            near = slice(middle - reach, middle + reach + 1)
            mixture = torch.cat([counts[:: 2 * reach + 1] for counts in of_nulls[near]])
            ratios, powers = (_log_ratio(x, table, nulls[near]) for x in (mixture, of_alternative))
            # Of equal ratios, which are many, those at the threshold are rejected by lot, up to the size.
            threshold = ratios.sort().values[math.ceil((1.0 - SIZE) * len(ratios)) - 1]
            at_null, at_threshold = (
                (ratios > threshold).double().mean(),
                (ratios == threshold).double().mean(),
            )
            lot = float((SIZE - at_null) / at_threshold) if at_threshold > 0 else 0.0
            power = float((powers > threshold).double().mean() + lot * (powers == threshold).double().mean())
            if power < least:
                least, where = power, float(points[middle])
    return least, where


def _counts(table: Tensor, samples: int, draws: int, generator: torch.Generator) -> Tensor:
    """Counts of the four outcomes in every class, shape (draws, C, 4)."""
    left, rest = (
        torch.full((draws, len(table)), float(samples), dtype=torch.float64),
        torch.ones_like(table[:, 0]),
    )
    counts = []
    for p in table.T[:3]:
        # Where nothing is left, rounding may make the rest negative, or 0 / 0.
        chance = (p / rest.clamp_min(1e-300)).clamp(0.0, 1.0)
        counts.append(torch.binomial(left, chance.expand_as(left), generator=generator))
        left, rest = left - counts[-1], rest - p
    return torch.stack([*counts, left], dim=2)


def _log_ratio(counts: Tensor, alternative: Tensor, nulls: Tensor) -> Tensor:
    """Logarithm of the likelihood of the alternative over that of the nulls' even mixture, shape (draws,)."""
    of_nulls = torch.stack([torch.xlogy(counts, null).sum(dim=(1, 2)) for null in nulls])
    ratio = torch.xlogy(counts, alternative).sum(dim=(1, 2)) - of_nulls.logsumexp(dim=0)
    # Equal in exact arithmetic, equal here.
    return ratio.round(decimals=9)


def all_seen(nulls: dict[int, float], repetitions: int, slow: int) -> list[tuple[str, str]]:
    """Verdicts of cases at their alternatives and at their nulls; those of macro F1 have fewer repetitions.

    Args:
        nulls: number of the case -> recall of its null.
        repetitions: of every case.
        slow: the part of them that macro F1 has.
    """
    found = []
    for index, t in nulls.items():
        case = CASES[index]
        count = repetitions // (slow if case.metric == "macro_f1" else 1)
        found.append(
            (seen(case, case.ours, case.theirs, count, 2 * index), seen(case, t, t, count, 2 * index + 1))
        )
    return found


def rate(verdicts: str) -> float:
    """Share of the ones."""
    return verdicts.count("1") / len(verdicts)


def change(now: str, before: str) -> tuple[float, float]:
    """Mean difference of verdicts on the same draws, over those that both have, and its standard error."""
    pairs = list(zip(now, before, strict=False))
    gained, lost = pairs.count(("1", "0")), pairs.count(("0", "1"))
    mean = (gained - lost) / len(pairs)
    return mean, math.sqrt(max(gained + lost - len(pairs) * mean**2, 0.0)) / len(pairs)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="directory of another version of the package")
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="write the figures here, as CSV")
    parser.add_argument("--only", default="", help="cases whose metric contains this")
    parser.add_argument("--verdicts", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.verdicts:
        asked = {int(index): t for index, t in json.loads(arguments.verdicts).items()}
        print(json.dumps(all_seen(asked, arguments.repetitions, SLOW)))
        return 0
    generator = torch.Generator().manual_seed(0)
    bounds = [bound(case, generator) for case in CASES]
    # Every case has the same draws whichever others are run.
    nulls = {
        index: round(t, 6)
        for index, (case, (_, t)) in enumerate(zip(CASES, bounds, strict=True))
        if arguments.only in case.metric
    }
    earlier = None
    if arguments.before:
        command = [sys.executable, __file__, "--verdicts", json.dumps(nulls)]
        command += ["--repetitions", str(arguments.repetitions)]
        path = {"PYTHONPATH": str(arguments.before.resolve())}
        answer = subprocess.run(
            command, env={**os.environ, **path}, check=True, stdout=subprocess.PIPE, text=True
        )
        earlier = json.loads(answer.stdout.splitlines()[-1])
    rows: list[dict[str, object]] = []
    for place, (index, (now, null)) in enumerate(
        zip(nulls, all_seen(nulls, arguments.repetitions, 1), strict=True)
    ):
        case, power = CASES[index], rate(now)
        row: dict[str, object] = {
            "metric": case.metric, "weak": case.weak, "ours": case.ours, "theirs": case.theirs,
            "samples": case.samples, "correlation": case.correlation, "repetitions": len(now),
            "power": f"{power:.3f}", "error": f"{math.sqrt(power * (1 - power) / len(now)):.3f}",
            "size": f"{rate(null):.3f}", "bound": f"{bounds[index][0]:.3f}",
        }  # fmt: skip
        if earlier is not None:
            difference, error = change(now, earlier[place][0])
            row |= {
                "before": f"{rate(earlier[place][0]):.3f}", "before_size": f"{rate(earlier[place][1]):.3f}",
                "change": f"{difference:+.3f}", "change_error": f"{error:.3f}",
                "below": "below" if difference < -2.0 * error else "",
            }  # fmt: skip
        rows.append(row)
        print(*row.values(), sep=",", flush=True)
    if arguments.out:
        with arguments.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
