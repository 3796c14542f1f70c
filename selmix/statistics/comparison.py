"""Paired comparison of two models, or of two procedures over seeds, on the same samples: the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import torch

from selmix.metric_keys import ends_of
from selmix.metrics import MetricContext, Predictions, metric_named
from selmix.statistics.constructions import construction_of
from selmix.statistics.intervals import Estimate
from selmix.statistics.means import crossed_bounds
from selmix.statistics.openings import holm_levels
from selmix.statistics.proportions import student_quantile

Outcome = Literal["better", "tied", "worse"]


def paired_difference(
    key: str,
    ours: Sequence[Predictions],
    theirs: Sequence[Predictions],
    context: MetricContext,
    level: float = 0.95,
) -> Estimate:
    """Difference ours - theirs of a metric, oriented so that higher is better, with its interval.

    The interval of a pair of models is the one that :data:`selmix.statistics.constructions.CONSTRUCTIONS` names. Over
    replicates (one Predictions per seed, replicate r against r) a difference that is a sum over samples is analysed
    crossed (:func:`selmix.statistics.means.crossed_bounds`). For others the half-widths are averaged, since the samples
    are the same and every seed has its own worst class, and the spread of the differences between seeds is added by
    Student's t, root of the sum of squares. A side with one Predictions stands against every replicate.

    Args:
        key: of METRICS, or ``module:function``.
        ours: predictions of one side, one per seed, at least one.
        theirs: predictions of the other side; where both have several, the same number.
        context: of the metric.
        level: of the interval, in (0, 1).
    Raises:
        ValueError: an unknown metric, sides that cannot be paired, or predictions on other samples.
    """
    metric, construction, alpha = metric_named(key), construction_of(key), 1.0 - level
    pairs = _pairs(ours, theirs)
    values = [a.value(metric, context) - b.value(metric, context) for a, b in pairs]
    if construction.influence is not None and len(pairs) > 1:
        influences = [construction.influence(a, b, context) for a, b in pairs]
        low, high = crossed_bounds(pairs[0][0].labels, values, influences, alpha)
        value = sum(values) / len(values)
        estimate = Estimate(value, min(low, value), max(high, value))
    else:
        singles = []
        for (a, b), value in zip(pairs, values, strict=True):
            low, high = construction.difference(a, b, value, context, alpha)
            singles.append(Estimate(value, min(low, value), max(high, value)))
        estimate = over_replicates(singles, level)
    # Negated where less is better: a positive difference always speaks for ours.
    return _negated(estimate) if metric.minimise else estimate


def over_replicates(singles: Sequence[Estimate], level: float = 0.95) -> Estimate:
    """Mean of estimates from several seeds on the same samples, with its interval.

    The samples' noise is shared, so half-widths are averaged; the spread between seeds is added by Student's t, root
    of the sum of squares.

    Args:
        singles: one per seed, at least one.
        level: of the interval, in (0, 1).
    """
    value = sum(s.value for s in singles) / len(singles)
    down = sum(s.value - s.low for s in singles) / len(singles)
    up = sum(s.high - s.value for s in singles) / len(singles)
    seeds = _seed_half_width([s.value for s in singles], 1.0 - level)
    return Estimate(value, value - math.hypot(down, seeds), value + math.hypot(up, seeds))


def mean_over_replicates(key: str, singles: Sequence[Estimate], level: float = 0.95) -> Estimate:
    """:func:`over_replicates` of a metric; the interval ends where the values of the metric do.

    Args:
        key: of METRICS, of a class rate, or ``module:function``, whose range is not known.
        singles: one per seed, at least one.
        level: of the interval, in (0, 1).
    """
    mean = over_replicates(singles, level)
    least, most = ends_of(key)
    return Estimate(mean.value, max(least, mean.low), min(most, mean.high))


def outcome(difference: Estimate) -> Outcome:
    """``better`` or ``worse`` where the interval leaves 0 out, else ``tied``."""
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "tied"


def outcomes_against(
    key: str,
    others: Mapping[str, Sequence[Predictions]],
    reference: Sequence[Predictions],
    context: MetricContext,
    level: float = 0.95,
) -> dict[str, Outcome]:
    """Compare each of several with one reference, Holm-corrected over all of them.

    A wrong ``better`` or ``worse`` of any of them comes with probability 1 - level at most.

    Args:
        key: of METRICS.
        others: name -> predictions, one per seed.
        reference: predictions that each is compared with, one per seed.
        context: of the metric.
        level: of all comparisons together.
    """
    return holm(
        others, lambda name, level: paired_difference(key, others[name], reference, context, level), level
    )


def tied_with_leader(
    key: str,
    leader: Sequence[Predictions],
    others: Mapping[str, Sequence[Predictions]],
    context: MetricContext,
    level: float = 0.95,
) -> list[str]:
    """Names whose paired interval against the leader contains 0, Holm-corrected over all of them.

    Args:
        key: of METRICS.
        leader: predictions, one per seed.
        others: name -> predictions, one per seed.
        context: of the metric.
        level: of all comparisons together.
    """
    # One-sided: only those that the leader beats drop out; one that is ahead would be the leader.
    outcomes = holm(
        others, lambda name, level: paired_difference(key, leader, others[name], context, level), level,
        two_sided=False,
    )  # fmt: skip
    return [name for name, outcome in outcomes.items() if outcome == "tied"]


def holm(
    names: Iterable[str],
    interval: Callable[[str, float], Estimate],
    level: float,
    two_sided: bool = True,
) -> dict[str, Outcome]:
    """Outcomes of several comparisons that are all right with probability ``level``: Holm's step-down procedure.

    Args:
        names: of the comparisons.
        interval: (name, level) -> the paired difference with its interval at that level.
        level: of all comparisons together, in (0, 1).
        two_sided: False where only a positive difference counts; any other one is then ``tied``.
    Source: :func:`selmix.statistics.openings.holm_levels`.
    """
    found: dict[str, Outcome] = {}

    def told_apart(name: str, at: float) -> bool:
        found[name] = outcome(interval(name, at))
        return found[name] == "better" or (two_sided and found[name] == "worse")

    decided = holm_levels(names, told_apart, level)
    return {name: found[name] if two_sided or found[name] == "better" else "tied" for name in decided}


def _pairs(
    ours: Sequence[Predictions], theirs: Sequence[Predictions]
) -> list[tuple[Predictions, Predictions]]:
    count = max(len(ours), len(theirs))
    if min(len(ours), len(theirs)) < 1 or {len(ours), len(theirs)} - {1, count}:
        raise ValueError(
            "paired comparison: replicates must pair: one, or as many as the other side, "
            f"got {len(ours)} and {len(theirs)}"
        )
    # A single model stands against every replicate of the other side.
    left = list(ours) * (count if len(ours) == 1 else 1)
    right = list(theirs) * (count if len(theirs) == 1 else 1)
    for a, b in zip(left, right, strict=True):
        if not torch.equal(a.labels, b.labels):
            raise ValueError(
                "paired comparison: both sides must be predictions on the same samples in the same order, got "
                f"{len(a.labels)} and {len(b.labels)} samples whose labels differ"
            )
    return list(zip(left, right, strict=True))


def _seed_half_width(values: list[float], alpha: float) -> float:
    # One seed has no spread: the interval is then conditional on that seed.
    if len(values) < 2:
        return 0.0
    spread = float(torch.tensor(values, dtype=torch.float64).std())
    return student_quantile(len(values) - 1, alpha) * spread / math.sqrt(len(values))


def _negated(estimate: Estimate) -> Estimate:
    return Estimate(-estimate.value, -estimate.high, -estimate.low)
