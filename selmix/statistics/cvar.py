"""Limits of the mean of the worst recalls: a minimum over all sets of so many classes, of which there are too many."""

from __future__ import annotations

import torch
from torch import Tensor

from selmix.definitions import cvar_of_recalls
from selmix.metrics import MetricContext, Predictions
from selmix.statistics.means import ALIKE, mean_limits
from selmix.statistics.paired_minima import SPLIT, correlations, paired_squares
from selmix.statistics.proportions import Bounds, clopper_pearson, sidak, wilson

_LAMBDAS = torch.logspace(-2.0, 4.0, 121, dtype=torch.float64)


def _amount(classes: int, fraction: float) -> float:
    return max(1.0, fraction * classes)


def cvar_bounds(counts: Tensor, context: MetricContext, alpha: float) -> Bounds:
    """Limits of the mean of the worst recalls.

    Args:
        counts: shape (K, K).
        context: of the metric; its definitions give the share of the classes.
        alpha: 1 - the joint level of both limits.
    """
    hits, rows, fraction = counts.diagonal(), counts.sum(dim=1), context.definitions.cvar_fraction
    means, amount = hits / rows, _amount(len(rows), fraction)
    shares = (amount - torch.arange(len(rows), dtype=torch.float64)).clamp(0.0, 1.0) / amount
    # Every set's limit is at least that of the observed worst recalls with the smallest numbers of samples, whichever
    # classes these are of.
    sorted_rows = rows.sort().values
    low, _ = mean_limits(shares, means.sort().values * sorted_rows, sorted_rows, alpha / 2.0)
    lows, highs = clopper_pearson(hits, rows, alpha / 2.0)
    # Few samples of much weight, all of them hits, do not show their variance: then every set by MOVER too.
    if float(rows.max() / rows.min()) > ALIKE:
        low = min(low, least_over_sets(means, means - lows, amount))
    _, highs = clopper_pearson(hits, rows, sidak(alpha / 2.0, len(rows)))
    return max(0.0, low), float(cvar_of_recalls(highs, fraction))


def cvar_difference(a: Predictions, b: Predictions, context: MetricContext, alpha: float) -> Bounds:
    """Limits of the difference a - b of the means of the worst recalls.

    Of two limits the higher counts, each at SPLIT alpha: the lowest over all sets of classes of the paired difference
    of the set's mean, since ours on its worst set minus theirs is at least the difference on that set; and MOVER of
    the two single limits, which is the better where different classes are weak.

    Args:
        a: one model.
        b: the other, on the same samples.
        context: of the metric.
        alpha: 1 - the joint level of both limits.
    """
    classes, fraction = len(context.train_counts), context.definitions.cvar_fraction
    counts = [side.counts(classes).double() for side in (a, b)]
    rows, amount = counts[0].sum(dim=1), _amount(classes, fraction)
    means = [each.diagonal() / rows for each in counts]
    phi = correlations(a.labels, a.correct, b.correct, classes, 0.5 / rows)
    ends = [wilson(each.diagonal(), rows, SPLIT * alpha) for each in counts]
    downs = [mean - low for mean, (low, _) in zip(means, ends, strict=True)]
    ups = [high - mean for mean, (_, high) in zip(means, ends, strict=True)]
    difference = means[0] - means[1]
    paired_low = least_over_sets(difference, paired_squares(downs[0], ups[1], phi).sqrt(), amount)
    paired_high = -least_over_sets(-difference, paired_squares(ups[0], downs[1], phi).sqrt(), amount)

    values = [float(cvar_of_recalls(mean, fraction)) for mean in means]
    (low_a, high_a), (low_b, high_b) = (cvar_bounds(each, context, SPLIT * alpha) for each in counts)
    value = values[0] - values[1]
    apart_low = value - ((values[0] - low_a) ** 2 + (high_b - values[1]) ** 2) ** 0.5
    apart_high = value + ((high_a - values[0]) ** 2 + (values[1] - low_b) ** 2) ** 0.5
    return max(paired_low, apart_low), min(paired_high, apart_high)


def least_over_sets(values: Tensor, margins: Tensor, amount: float) -> float:
    """Number that no set of classes has a lower limit below, min_S [sum c d - sqrt(sum c^2 w^2)] / amount or less.

    The shares c of a set are 1 for floor(amount) classes and the rest for one more. Since -sqrt(y) is the largest of
    -lambda y - 1 / (4 lambda), the minimum over sets for any lambda, which sorting finds, is a number on the safe side;
    the best of a grid is taken. (The least over sets that a grid comes upon would not be: there may be a lower one.)

    Args:
        values: d, shape (K,).
        margins: w, distance of the lower limit of each, shape (K,), >= 0.
        amount: number of classes in a set, in [1, K].
    """
    whole = min(int(amount + 1e-9), len(values))
    rest = amount - whole
    grid = _LAMBDAS.unsqueeze(1)
    squares = margins.square()
    ordered = (values - grid * squares).sort(dim=1).values
    sums = ordered.cumsum(dim=1)
    if rest < 1e-9 or whole == len(values):
        least = sums[:, whole - 1]
    else:
        # One class has the rest; the whole ones are the smallest of the others.
        own = values - grid * squares
        inside = own <= ordered[:, whole - 1 : whole]
        without = torch.where(inside, sums[:, whole : whole + 1] - own, sums[:, whole - 1 : whole])
        least = (without + rest * values - grid * rest**2 * squares).amin(dim=1)
    return float((least - 0.25 / _LAMBDAS).max()) / amount
