"""Paired comparison of two models, or of two procedures over seeds, on the same samples: the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from selmix.metrics import Metric, MetricContext, Predictions, metric_named
from selmix.statistics.intervals import RESAMPLES_OF_PREDICTIONS, Estimate, mover_margins
from selmix.statistics.paired_minima import correlations, least_mean_difference, paired_squares
from selmix.statistics.proportions import student_quantile, wilson
from selmix.statistics.worst_case import WORST_CASE_BOUNDS

Outcome = Literal["better", "tied", "worse"]
_DRAWS = 1000

MINIMA: dict[str, Callable[[Predictions, MetricContext], tuple[Tensor, Tensor]]] = {
    "min_recall": lambda predictions, context: (predictions.labels, torch.arange(len(context.train_counts))),
    "min_head_tail_recall": lambda predictions, context: (predictions.labels, context.tail.long().cpu()),
    "worst_group_recall": lambda predictions, context: (
        predictions.strata(context.num_groups),
        torch.arange(len(context.train_counts) * context.num_groups),
    ),
}
"""Metrics that are the smallest mean recall of a part: key -> (predictions, context) -> stratum of each sample, shape
(n,), and part of each stratum, shape (S,)."""


def paired_difference(
    key: str,
    ours: Sequence[Predictions],
    theirs: Sequence[Predictions],
    context: MetricContext,
    level: float = 0.95,
) -> Estimate:
    """Difference ours - theirs of a metric, oriented so that higher is better, with its interval.

    Within a pair of models on the same samples:

    - smallest recalls, of classes, of (class, group) cells, or of head and tail: :func:`least_mean_difference`. A
      paired percentile bootstrap calls ties between one weak class and many weak ones ``better`` in a third of the
      cases, because the minimum over many classes is biased downwards.
    - other metrics of the worst classes: MOVER on the confidence bounds of the two
      (:mod:`selmix.statistics.worst_case`), (d - sqrt((a - L_a)^2 + (U_b - b)^2), ...); the Sidak-corrected upper
      bound of a minimum carries its bias. Correlation of the pairs is left out, which widens the interval.
    - other metrics of the recalls: Newcombe's square-and-add for pairs, class by class, with the correlation of the
      two models' hits; it does not collapse where both are perfect.
    - metrics of the whole matrix and calibration: quantiles of a Bayesian bootstrap over the samples of each class.

    Over replicates (one Predictions per seed, replicate r against r): the half-widths are averaged, since the samples
    are the same and their noise does not average out, and the spread of the differences between seeds is added by
    Student's t, root of the sum of squares. A side with one Predictions stands against every replicate.

    Args:
        key: of METRICS.
        ours: predictions of one side, one per seed, at least one.
        theirs: predictions of the other side; where both have several, the same number.
        context: of the metric.
        level: of the interval, in (0, 1).
    Raises:
        ValueError: an unknown metric, sides that cannot be paired, or predictions on other samples.
    """
    pairs = _pairs(ours, theirs)
    return over_replicates([_single_pair(key, a, b, context, 1.0 - level) for a, b in pairs], level)


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


def mean_over_replicates(singles: Sequence[Estimate], level: float = 0.95) -> Estimate:
    """:func:`over_replicates` of a metric; the interval of a fraction ends at 0 and 1, that of a cost nowhere."""
    mean = over_replicates(singles, level)
    # A cost is known by an interval that leaves [0, 1]; those of fractions end there.
    if max(s.high for s in singles) > 1.0 or min(s.low for s in singles) < 0.0:
        return mean
    return Estimate(mean.value, max(0.0, mean.low), min(1.0, mean.high))


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
    """Outcomes of several comparisons that are all right with probability ``level``.

    Holm's order is that of how clearly each difference leaves 0; once one does not, the rest are tied too.

    Args:
        names: of the comparisons.
        interval: (name, level) -> the paired difference with its interval at that level.
        level: of all comparisons together.
        two_sided: False where only a positive difference counts for the order.
    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics, 1979.
    """
    plain = {name: interval(name, level) for name in names}

    def clearness(name: str) -> float:
        return _clearness(_made_positive(plain[name]) if two_sided else plain[name])

    outcomes: dict[str, Outcome] = dict.fromkeys(plain, "tied")
    order = sorted(plain, key=clearness, reverse=True)
    for rank, name in enumerate(order):
        # Step-down: the clearest must hold against all comparisons, the next against one fewer, and so on.
        corrected = 1.0 - (1.0 - level) / (len(order) - rank)
        outcomes[name] = outcome(interval(name, corrected))
        if outcomes[name] == "tied":
            break
    return outcomes


def _clearness(difference: Estimate) -> float:
    """Difference in units of its lower margin: above 1 the interval leaves 0 out; without a margin it is certain."""
    width = difference.value - difference.low
    if width > 0:
        return difference.value / width
    return math.copysign(math.inf, difference.value) if difference.value else 0.0


def _made_positive(difference: Estimate) -> Estimate:
    """Difference with its sides exchanged where it is negative."""
    return difference if difference.value >= 0 else _negated(difference)


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


def _single_pair(key: str, a: Predictions, b: Predictions, context: MetricContext, alpha: float) -> Estimate:
    metric = metric_named(key)
    # Neither recalls nor bounds: the whole matrix, or the confidences, must be drawn.
    if metric.of_recalls is None and key not in WORST_CASE_BOUNDS:
        return _bootstrap_pair(metric, a, b, context, alpha)
    classes = len(context.train_counts)
    ours, theirs = (side.counts_for(key, context).double() for side in (a, b))
    value = float(metric.of(ours, context) - metric.of(theirs, context))
    # First, because minima have bounds of their own too, which do not know of the pairing.
    if key in MINIMA:
        strata, parts = MINIMA[key](a, context)
        low, high = least_mean_difference(strata, parts, a.correct, b.correct, alpha)
        down, up = value - low, high - value
    elif key in WORST_CASE_BOUNDS:
        low_a, high_a = WORST_CASE_BOUNDS[key](ours, context, alpha)
        low_b, high_b = WORST_CASE_BOUNDS[key](theirs, context, alpha)
        at_a, at_b = float(metric.of(ours, context)), float(metric.of(theirs, context))
        down, up = math.hypot(at_a - low_a, high_b - at_b), math.hypot(high_a - at_a, at_b - low_b)
    elif metric.of_recalls is not None:
        correlation = correlations(a.labels, a.correct, b.correct, classes)
        margins = [
            mover_margins(metric.of_recalls, c, context, wilson(c.diagonal(), c.sum(dim=1), alpha))
            for c in (ours, theirs)
        ]
        (down_a, up_a), (down_b, up_b) = margins
        # The difference falls where ours falls and theirs rises.
        down, up = _square_and_add(down_a, up_b, correlation), _square_and_add(up_a, down_b, correlation)
    else:
        raise AssertionError(f"{key} has neither confidence bounds nor recalls")
    estimate = Estimate(value, value - down, value + up)
    # Negated where less is better: a positive difference always speaks for ours.
    return _negated(estimate) if metric.minimise else estimate


def _square_and_add(first: Tensor, second: Tensor, correlation: Tensor) -> float:
    return float(paired_squares(first, second, correlation).sum().sqrt())


def _bootstrap_pair(
    metric: Metric, a: Predictions, b: Predictions, context: MetricContext, alpha: float
) -> Estimate:
    """Percentile interval of the difference under resampling, the same resamples for both models.

    For a metric of counts the samples of each class get Dirichlet weights (a Bayesian bootstrap); a metric of
    predictions is taken of resamples.
    """
    # A fixed seed: the same predictions have the same interval.
    generator = torch.Generator().manual_seed(0)
    value = a.value(metric, context) - b.value(metric, context)
    draws = []
    for _ in range(_DRAWS if metric.of_predictions is None else RESAMPLES_OF_PREDICTIONS):
        if metric.of_predictions is not None:
            index = torch.randint(len(a.labels), (len(a.labels),), generator=generator)
            draws.append(a.take(index).value(metric, context) - b.take(index).value(metric, context))
            continue
        # Normalised by class below they are uniform on the simplex; torch.distributions takes no generator.
        weights = torch._standard_gamma(torch.ones(len(a.labels), dtype=torch.float64), generator=generator)
        pair = [_weighted_counts(p, weights, len(context.train_counts)) for p in (a, b)]
        draws.append(float(metric.of(pair[0], context) - metric.of(pair[1], context)))
    bounds = torch.quantile(
        torch.tensor(draws, dtype=torch.float64),
        torch.tensor([alpha / 2, 1 - alpha / 2], dtype=torch.float64),
    )
    # Draws of a biased metric may all lie on one side of its value, which an interval must contain.
    estimate = Estimate(value, min(value, float(bounds[0])), max(value, float(bounds[1])))
    return _negated(estimate) if metric.minimise else estimate


def _weighted_counts(predictions: Predictions, weights: Tensor, classes: int) -> Tensor:
    """Counts with weighted samples, rows scaled back to the number of samples, shape (K, K)."""
    entries = predictions.labels * classes + predictions.predicted
    counts = torch.bincount(entries, weights=weights, minlength=classes**2).view(classes, classes)
    rows = torch.bincount(predictions.labels, minlength=classes).double().unsqueeze(1)
    return counts / counts.sum(dim=1, keepdim=True) * rows


def _negated(estimate: Estimate) -> Estimate:
    return Estimate(-estimate.value, -estimate.high, -estimate.low)
