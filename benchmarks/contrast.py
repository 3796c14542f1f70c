"""Paired contrasts over seeds: mean difference, Student's t, Holm's correction over what is asked together."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selmix.statistics.proportions import student_quantile


@dataclass(frozen=True)
class Contrast:
    """One side minus another over seeds.

    Attributes:
        mean: of the differences. low, high: its own 95 % interval, not corrected.
        better, tied, worse: seeds with a difference above, at and below 0.
        outcome: ``better``, ``tied`` or ``worse`` after Holm's correction over the family.
    """

    mean: float
    low: float
    high: float
    better: int
    tied: int
    worse: int
    outcome: str


def t_interval(gaps: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean of differences and its interval by Student's t; of a single one the whole line."""
    mean = statistics.mean(gaps)
    if len(gaps) < 2:
        return mean, -math.inf, math.inf
    half = student_quantile(len(gaps) - 1, 1.0 - level) * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return mean, mean - half, mean + half


def family(gaps: Mapping[str, Sequence[float]], level: float = 0.95) -> dict[str, Contrast]:
    """Contrasts that are asked together: at most 1 - level of such families holds a wrong ``better`` or ``worse``.

    Holm's order is that of |t|, which is that of p since all have the same seeds; once one is tied, the rest are.

    Args:
        gaps: name -> differences, one a seed, as many in each.
    """
    order = sorted(gaps, key=lambda name: _t(gaps[name]), reverse=True)
    outcomes: dict[str, str] = {}
    for rank, name in enumerate(order):
        _, low, high = t_interval(gaps[name], 1.0 - (1.0 - level) / (len(order) - rank))
        says = "better" if low > 0 else "worse" if high < 0 else "tied"
        outcomes[name] = "tied" if "tied" in outcomes.values() else says
    return {
        name: Contrast(
            *t_interval(each, level), sum(g > 0 for g in each), sum(g == 0 for g in each), sum(g < 0 for g in each),
            outcomes[name],
        )
        for name, each in gaps.items()
    }  # fmt: skip


def _t(gaps: Sequence[float]) -> float:
    if len(gaps) < 2:
        return 0.0
    mean, error = abs(statistics.mean(gaps)), statistics.stdev(gaps) / math.sqrt(len(gaps))
    if error == 0.0:
        return math.inf if mean > 0 else 0.0
    return mean / error
