"""Limits of the mean of the worst recalls: a minimum over all sets of so many classes, of which there are too many."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from selmix.definitions import cvar_of_recalls
from selmix.metrics import MetricContext, Predictions
from selmix.statistics.means import ALIKE, mean_limits
from selmix.statistics.paired_minima import SPLIT, correlations, paired_squares
from selmix.statistics.proportions import Bounds, clopper_pearson, mover_difference, sidak, wilson

_LAMBDAS = torch.logspace(-2.0, 4.0, 121, dtype=torch.float64)
_WEIGHTS = torch.linspace(0.0, 1.0, 9, dtype=torch.float64)


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

    Ours on its true worst set S minus theirs is at least the paired difference on S, and equals the mean of ours on S
    minus the mean of the worst of theirs. So each set has two lower limits, of which the higher counts, and the lowest
    over all sets holds; beside it MOVER of the two single limits. Only the paired ones have SPLIT alpha in place of
    alpha: the upper limit of the worst of theirs holds for all recalls together, so that limits against it miss far
    less often than alpha says, and both together no more often (simulated).

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
    margins = [paired_squares(downs[k], ups[1 - k], phi).sqrt() for k in range(2)]
    values = [float(cvar_of_recalls(mean, fraction)) for mean in means]
    first, second = (cvar_bounds(each, context, alpha) for each in counts)
    apart_low, apart_high = mover_difference((values[0], values[1]), (first, second))
    exact = [
        mean - clopper_pearson(each.diagonal(), rows, alpha / 2.0)[0]
        for mean, each in zip(means, counts, strict=True)
    ]
    low = max(
        least_over_sets(difference, margins[0], amount),
        least_of_better(
            (difference, margins[0]), (means[0], exact[0]), (values[1], second[1] - values[1]), amount
        ),
    )
    high = -max(
        least_over_sets(-difference, margins[1], amount),
        least_of_better(
            (-difference, margins[1]), (means[1], exact[1]), (values[0], first[1] - values[0]), amount
        ),
    )
    return max(low, apart_low), min(high, apart_high)


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


def least_of_better(
    paired: tuple[Tensor, Tensor], ours: tuple[Tensor, Tensor], theirs: tuple[float, float], amount: float
) -> float:
    """Number that no set of classes has both lower limits below: min_S max(paired_S, apart_S) or less.

    paired_S is [sum c d - sqrt(sum c^2 w^2)] / amount, apart_S is sum c a / amount - centre - sqrt(sum c^2 v^2 /
    amount^2 + up^2), c the shares as in :func:`least_over_sets`. The larger of two numbers is the largest of their
    weighted means, and roots are bounded as there; for any weight and any two lambdas sorting finds the minimum over
    sets, a number on the safe side.

    Args:
        paired: d and w, values and distances of the lower limits of the paired differences, each of shape (K,).
        ours: a and v, the same of our recalls.
        theirs: centre and up, the worst mean of theirs and the distance of its upper limit, >= 0.
        amount: number of classes in a set, in [1, K].
    """
    (difference, margins), (means, downs), (centre, up) = paired, ours, theirs
    whole = min(int(amount + 1e-9), len(difference))
    rest = amount - whole
    # c <= 1, so that sum c^2 w^2 is at most sum c w^2, and everything is a sum over classes.
    squares, own_squares = (each.square() / amount**2 for each in (margins, downs))
    weight, first, second = (
        axis.reshape(-1, 1)
        for axis in torch.meshgrid(
            _WEIGHTS, _steps(squares, 0.0, amount), _steps(own_squares, up**2, amount), indexing="ij"
        )
    )
    of_paired = difference / amount - first * squares
    of_ours = means / amount - second * own_squares
    ordered = (weight * of_paired + (1.0 - weight) * of_ours).sort(dim=1).values
    least = ordered[:, :whole].sum(dim=1)
    if rest > 1e-9 and whole < len(difference):
        least = least + rest * ordered[:, whole]
    constant = weight * 0.25 / first + (1.0 - weight) * (centre + 0.25 / second + second * up**2)
    return float((least - constant.squeeze(1)).max())


def _steps(squares: Tensor, constant: float, amount: float) -> Tensor:
    """Lambdas for the roots that sets may have, 1 / (2 root), from the largest root to the smallest."""
    ordered, count = squares.sort().values, min(math.ceil(amount - 1e-9), len(squares))
    largest, smallest = (
        math.log10(max(float(part.sum()) + constant, 1e-12)) / 2.0
        for part in (ordered[-count:], ordered[: int(amount)])
    )
    roots: Tensor = torch.logspace(largest, smallest, 7, dtype=torch.float64)
    return 0.5 / roots
