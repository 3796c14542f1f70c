"""The verdict on a row against every opponent, and the margin below which a difference does not matter.

``better`` is claimed only where every lower limit lies above 0: each comparison may then err with half of 1 - level and
no correction is needed (intersection-union). ``worse`` is claimed where any opponent is better, a union, so Holm
corrects it. ``tied`` is a claim too, of equality up to a margin; where none holds the samples do not tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from selmix.definitions import Definitions
from selmix.metric_keys import AGREEMENTS, is_fraction, is_own
from selmix.metrics import metric_named
from selmix.statistics.comparison import holm
from selmix.statistics.intervals import Estimate
from selmix.statistics.proportions import normal_quantile

VerdictOutcome = Literal["better", "tied", "worse", "undecided"]

MARGIN = 0.02
"""Margin of recalls, precisions, means and gaps, and of the range of the costs."""

CALIBRATION_MARGIN = 0.01
COVERAGE_MARGIN = 0.1
"""Margin of a coverage in units of 1 / K: 0.02 would exceed the range of a coverage from 50 classes on."""

COVERAGES = ("min_coverage", "min_head_tail_coverage")

DISCORDANT = 0.16
"""Share of the samples of a weak class that two models typically decide differently, one right and one wrong."""

MANY_SAMPLES = 500
"""Samples per class up to which a minimum is hardly ever tied, so that a reader must be told."""


def default_margin(key: str, num_classes: int, definitions: Definitions | None = None) -> float:
    """Margin below which a difference of a metric does not matter, where none is set.

    Args:
        key: of METRICS.
        num_classes: K.
        definitions: of the metrics; the range of the costs is that of their matrix.
    Raises:
        ValueError: a function of the user's own, whose range is not known.
    """
    if is_own(key):
        raise ValueError(f"{key} has no margin of its own: its range is not known; set selection.margin")
    metric = metric_named(key)
    if metric.of_predictions is not None:
        return CALIBRATION_MARGIN
    if key in COVERAGES:
        return COVERAGE_MARGIN / num_classes
    scale = metric_range(key, num_classes, definitions)
    return MARGIN if scale is None else MARGIN * scale


def metric_range(
    key: str, num_classes: int | None = None, definitions: Definitions | None = None
) -> float | None:
    """Width of the range in which a metric moves: 1 / K of coverages, that of the costs of ``cost``, else 1.

    That of MCC and kappa is counted from chance.

    Args:
        key: of METRICS.
        num_classes: K; None where it is not known: a coverage is then taken to reach 1.
        definitions: of the metrics, with the cost matrix.
    Returns:
        The width; None of the cost without a matrix, and of a function of the user's own.
    """
    # The coverages sum to 1, so the least of K, or of two group means, is 1 / K at most.
    if key in COVERAGES and num_classes is not None:
        return 1.0 / num_classes
    if is_fraction(key) or key in AGREEMENTS:
        return 1.0
    costs = None if definitions is None else definitions.cost_matrix
    if key != "cost" or costs is None:
        return None
    entries = [cost for row in costs for cost in row]
    return max(entries) - min(entries)


@dataclass(frozen=True)
class Judgement:
    """Outcome of a row against its opponents.

    Attributes:
        outcome: of all comparisons together.
        differences: opponent -> row minus opponent, higher is better, at the plain level.
        better_than: opponents whose lower limit lies above 0.
        worse_than: opponents that are better, after Holm.
        not_told_apart: the other opponents.
        within_margin: True if it is better, by less than the margin.
    """

    outcome: VerdictOutcome
    differences: dict[str, Estimate]
    better_than: tuple[str, ...]
    worse_than: tuple[str, ...]
    not_told_apart: tuple[str, ...]
    within_margin: bool


def judge(
    interval: Callable[[str, float], Estimate],
    opponents: Mapping[str, object] | tuple[str, ...],
    against: str,
    margin: float,
    level: float = 0.95,
) -> Judgement:
    """Judge a row against its opponents, all of them fixed before.

    Args:
        interval: (opponent, level) -> paired difference row minus opponent with its interval at that level.
        opponents: names, at least one.
        against: the opponent that was chosen on select, one of them.
        margin: below which a difference does not matter, > 0.
        level: of every interval.
    Raises:
        ValueError: ``against`` is none of the opponents.
    """
    names = tuple(opponents)
    if against not in names:
        raise ValueError(f"against: must be one of the opponents {', '.join(names)}, got {against!r}")
    plain = {name: interval(name, level) for name in names}

    def reversed_interval(name: str, level: float) -> Estimate:
        gap = interval(name, level)
        return Estimate(-gap.value, -gap.high, -gap.low)

    # One-sided: only opponents that are better count here.
    beaten = holm(names, reversed_interval, level, two_sided=False)
    worse_than = tuple(name for name in names if beaten[name] == "better")
    better_than = tuple(name for name in names if plain[name].low > 0)
    outcome: VerdictOutcome = "undecided"
    if worse_than:
        outcome = "worse"
    elif len(better_than) == len(names):
        outcome = "better"
    elif all(gap.low > -margin for gap in plain.values()) and plain[against].high < margin:
        outcome = "tied"
    return Judgement(
        outcome, plain, better_than, worse_than,
        tuple(name for name in names if name not in worse_than and name not in better_than),
        outcome == "better" and plain[against].high < margin,
    )  # fmt: skip


def samples_needed(
    difference: Estimate, samples: int, margin: float, corrected: Estimate | None = None
) -> int | None:
    """Samples per class with which this difference would tell, at this value: the interval narrows as 1 / sqrt(n).

    Args:
        difference: with its interval.
        samples: per class that it rests on.
        margin: below which a difference does not matter.
        corrected: the same difference at the level that ``worse`` takes among several opponents; None: at the same.
    Returns:
        The smallest of the numbers that would give better, worse or tied; None where none would.
    """
    value, down, up = difference.value, difference.value - difference.low, difference.high - difference.value
    ratios = []
    if value > 0:
        ratios.append(down / value)
    if value < 0:
        ratios.append((up if corrected is None else corrected.high - corrected.value) / -value)
    if abs(value) < margin:
        ratios.append(max(down / (margin + value), up / (margin - value)))
    if not ratios or not math.isfinite(min(ratios)):
        return None
    return max(samples, math.ceil(samples * min(ratios) ** 2))


def samples_to_tie(margin: float, discordant: float = DISCORDANT, level: float = 0.95) -> int:
    """Samples with which two models without an observed difference are tied: z sqrt(q / n) = margin, solved for n.

    Args:
        margin: below which a difference does not matter, > 0.
        discordant: q, share of the samples that exactly one of the two has right: of a minimum those of the weak class.
        level: of the interval.
    """
    return math.ceil(discordant * (normal_quantile((1.0 - level) / 2.0) / margin) ** 2)


def is_minimum(key: str) -> bool:
    """True if a metric is the lowest of several rates, so that it rests on the samples of one class or cell.

    Args:
        key: of METRICS.
    """
    # A coverage is a share of all predictions.
    return not is_own(key) and metric_named(key).least_of is not None and "coverage" not in key
