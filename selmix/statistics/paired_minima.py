"""Two models on the same samples: correlation of their hits, and the difference of their minima.

Let p attain the true minimum of ours. The difference of the minima is m_p(ours) - min(theirs), and at least m_p(ours) -
m_p(theirs). So each part has two lower limits: a paired one, which knows that both are judged on the same samples, and
one of m_p(ours) and the least of theirs, apart. The higher counts, and the lowest over the parts holds whichever p is,
with no correction for their number. The upper limit is the same with the sides changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from selmix.statistics.means import mean_limits, shrunk_recalls
from selmix.statistics.proportions import Bounds, clopper_pearson, normal_quantile, sidak, wilson

SPLIT = 0.8
"""Share of alpha that each of two limits has, the higher of which counts: either may miss, and the size study shows
that both together then miss as often as alpha says at worst."""

MANY = 10
"""Parts up to which the bias of an observed minimum is small against its noise: 5 % wrong or less, simulated."""

FEW = 5
"""Parts that cannot be told from the minimum, up to which the observed minimum is taken for its centre."""

_NEAR = 2.5  # standard errors within which a part may be the least one


def correlations(
    strata: Tensor, ours: Tensor, theirs: Tensor, count: int, continuity: Tensor | float = 0.0
) -> Tensor:
    """Phi coefficient of two models' hits within each stratum, shape (S,); 0 where one has no spread.

    Args:
        strata: of each sample, shape (n,).
        ours: True where our model is right, shape (n,).
        theirs: True where the other model is right, shape (n,).
        count: number of strata, S.
        continuity: taken from a positive covariance, down to 0; Newcombe's is 1 / (2 n), shape (S,).
    """
    mean_x, mean_y = (recalls_of(strata, side, count) for side in (ours, theirs))
    covariance = recalls_of(strata, ours & theirs, count) - mean_x * mean_y
    covariance = torch.where(covariance > 0, (covariance - continuity).clamp_min(0.0), covariance)
    # Hits of a model that is always right, or never, go together with nothing: 0 / 0 counts as no correlation.
    spread = (mean_x * (1 - mean_x) * mean_y * (1 - mean_y)).sqrt()
    return torch.where(spread > 0, covariance / spread, 0.0)


def recalls_of(strata: Tensor, correct: Tensor, count: int) -> Tensor:
    """Share of the hits in each stratum.

    Args:
        strata: of each sample, shape (n,).
        correct: True where the model is right, shape (n,).
        count: number of strata, S.
    Returns:
        Shape (S,), float64; NaN for a stratum without samples.
    """
    hits = torch.bincount(strata, weights=correct.double(), minlength=count)
    return hits / torch.bincount(strata, minlength=count)


@dataclass(frozen=True)
class Parts:
    """Values whose minimum a metric is, on one side, with what their limits need; P of them.

    Attributes:
        value: of each, shape (P,).
        low: lower limit of each, missed with half of SPLIT alpha, shape (P,).
        near: value and standard error of each, shrunk so that neither is certain, each of shape (P,).
        high_at: probability to miss one limit -> upper limits, shape (P,).
        quantile_at: probability -> values that the estimates exceed no more often, shape (P,).
    """

    value: Tensor
    low: Tensor
    near: tuple[Tensor, Tensor]
    high_at: Callable[[float], Tensor]
    quantile_at: Callable[[float], Tensor]


def each_side(alpha: float) -> float:
    """Probability to miss one limit of a single side, of which each of the two candidates has SPLIT alpha."""
    return SPLIT * alpha / 2.0


def proportions(hits: Tensor, trials: Tensor, alpha: float) -> Parts:
    """Proportions as parts; of one without trials nothing is known, and it counts 0.

    Args:
        hits: shape (P,).
        trials: shape (P,).
        alpha: 1 - the level of the difference.
    """
    from scipy.special import betaincinv

    known = trials > 0

    def high_at(miss: float) -> Tensor:
        return torch.where(known, clopper_pearson(hits, trials, miss)[1], 1.0)

    def quantile_at(probability: float) -> Tensor:
        x, n = hits.numpy(), trials.numpy()
        jeffreys = torch.from_numpy(betaincinv(x + 0.5, n - x + 0.5, probability))
        return torch.where(hits < trials, jeffreys, 1.0)

    low, _ = clopper_pearson(hits, trials, each_side(alpha))
    shrunk = (hits + 0.5) / (trials + 1.0)
    error = torch.where(known, (shrunk * (1.0 - shrunk) / trials.clamp_min(1.0)).sqrt(), 1.0)
    value = torch.where(known, hits / trials.clamp_min(1.0), 0.0)
    return Parts(value, torch.where(known, low, 0.0), (shrunk, error), high_at, quantile_at)


def apart(ours: Parts, theirs: Parts, alpha: float) -> Tensor:
    """Lower limits of m_p(ours) - min(theirs) for every part p, by MOVER; shape (P,).

    The upper limit of a minimum is that of all its parts together. With many parts most of its distance is bias: the
    minimum of noisy numbers lies below the least true one, and that adds to a difference; it is no noise, which would
    enter the root of squares (8.6 % wrong at 100 classes). So beyond MANY parts the centre is the median-unbiased
    minimum, over those of their parts that cannot be told from the least one (Chernozhukov, Lee and Rosen,
    "Intersection bounds", Econometrica 2013).

    Args:
        ours: parts of our side.
        theirs: parts of the other side.
        alpha: 1 - the level of the difference.
    """
    if len(theirs.value) <= MANY:
        high = float(theirs.high_at(sidak(each_side(alpha), len(theirs.value))).min())
        return _mover(ours, float(theirs.value.min()), high)
    centres, errors = theirs.near
    near = centres - _NEAR * errors <= (centres + _NEAR * errors).min()
    count = int(near.sum())
    # Their upper limits must hold at once; of ours that of p alone.
    high = float(theirs.high_at(sidak(each_side(alpha), count))[near].min())
    centre = float(theirs.value.min())
    if count > FEW:
        centre = max(centre, min(float(theirs.quantile_at(0.5 ** (1.0 / count))[near].min()), high))
    return _mover(ours, centre, high)


def _mover(ours: Parts, centre: float, high: float) -> Tensor:
    gap = ours.value - centre
    return gap - torch.hypot(ours.value - ours.low, torch.full_like(gap, max(0.0, high - centre)))


def least_difference(paired: Tensor, ours: Parts, theirs: Parts, alpha: float) -> float:
    """Lower limit of min(ours) - min(theirs).

    Args:
        paired: lower limits of m_p(ours) - m_p(theirs) at level 1 - SPLIT alpha, shape (P,).
        ours: parts of our side.
        theirs: parts of the other side.
        alpha: 1 - the level of the difference.
    """
    return float(torch.maximum(paired, apart(ours, theirs, alpha)).min())


def least_mean_difference(
    strata: Tensor, parts: Tensor, ours: Tensor, theirs: Tensor, alpha: float
) -> Bounds:
    """Limits at level 1 - alpha of min_p m_p(ours) - min_p m_p(theirs), m_p the mean of the recalls of part p.

    The paired limits are Newcombe's (1998, method 10) where each stratum is a part. Of means over strata they are
    normal on the differences of the samples: correlations within strata of five samples are too noisy for
    square-and-add (7.7 % wrong at 100 classes of 5 to 100 samples).

    Args:
        strata: of each sample, shape (n,).
        parts: part of each stratum, shape (S,); a stratum without samples is left out.
        ours: True where our model is right, shape (n,).
        theirs: True where the other model is right, shape (n,).
        alpha: probability to miss the interval.
    Returns:
        Lower and upper limit.
    """
    present = torch.bincount(strata, minlength=len(parts)) > 0
    strata, parts = _renumbered(strata), _renumbered(parts[present])
    trials = torch.bincount(strata).double()
    a, b = (recalls_of(strata, side, len(parts)) for side in (ours, theirs))
    first, second = (_means_of(parts, trials, side, alpha) for side in (a, b))
    if int(parts.max()) + 1 < len(parts):
        low, high = _paired_means(strata, parts, trials, ours.double() - theirs.double(), alpha)
    else:
        # With Newcombe's continuity correction.
        phi = correlations(strata, ours, theirs, len(parts), 0.5 / trials)
        low, high = _newcombe(trials, a, b, phi, alpha), -_newcombe(trials, b, a, phi, alpha)
    return least_difference(low, first, second, alpha), -least_difference(-high, second, first, alpha)


def _newcombe(trials: Tensor, a: Tensor, b: Tensor, phi: Tensor, alpha: float) -> Tensor:
    """Newcombe's lower limits of differences of recalls, shape (S,)."""
    down = a - wilson(a * trials, trials, SPLIT * alpha)[0]
    up = wilson(b * trials, trials, SPLIT * alpha)[1] - b
    return a - b - paired_squares(down, up, phi).sqrt()


def _paired_means(
    strata: Tensor, parts: Tensor, trials: Tensor, difference: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """Limits of the differences of the parts' means, with two pseudo-samples in each part; shape (P,)."""
    # Every stratum of a part weighs the same in its mean.
    weights = 1.0 / (torch.bincount(parts).double()[parts] * trials)
    each = weights[strata] * difference
    sums, squares = (torch.bincount(strata, weights=x, minlength=len(parts)) for x in (each, each.square()))
    # Of a single sample the square stands for the variance: nothing better is known.
    within = torch.where(
        trials > 1, (squares - sums.square() / trials) / (trials - 1.0).clamp_min(1.0), squares
    )
    samples = _summed(parts, trials)
    largest = torch.stack([weights[parts == p].max() for p in range(len(samples))])
    variance = _summed(parts, trials * within.clamp_min(0.0)) + 2.0 * largest.square()
    half = normal_quantile(SPLIT * alpha / 2.0) * variance.sqrt()
    centre = _summed(parts, sums) * samples / (samples + 2.0)
    return centre - half, centre + half


def _means_of(parts: Tensor, trials: Tensor, values: Tensor, alpha: float) -> Parts:
    """Mean recalls of the parts."""
    hits, count = values * trials, int(parts.max()) + 1
    if count == len(parts):
        return proportions(hits, trials, alpha)
    members = [parts == p for p in range(count)]
    shares = [
        torch.full((int(inside.sum()),), 1.0 / int(inside.sum()), dtype=torch.float64) for inside in members
    ]

    def limits(miss: float) -> Tensor:
        pairs = [
            mean_limits(share, hits[inside], trials[inside], miss)
            for share, inside in zip(shares, members, strict=True)
        ]
        return torch.tensor(pairs, dtype=torch.float64).T

    means = torch.stack([values[inside].mean() for inside in members])
    shrunk = shrunk_recalls(hits, trials)
    errors = torch.stack([
        (share.square() * shrunk[inside] * (1.0 - shrunk[inside]) / trials[inside]).sum().sqrt()
        for share, inside in zip(shares, members, strict=True)
    ])  # fmt: skip
    return Parts(
        means, limits(each_side(alpha))[0], (means, errors), lambda miss: limits(miss)[1],
        lambda probability: limits(1.0 - probability)[1],
    )  # fmt: skip


def paired_squares(down: Tensor, up: Tensor, correlation: Tensor) -> Tensor:
    """Newcombe's squared margin of a paired difference, stratum by stratum, from the margins of its two sides.

    Args:
        down: margin of the first side in the direction of the bound, shape (S,).
        up: margin of the second side in the opposite direction, shape (S,).
        correlation: of the two sides' hits, shape (S,).
    Returns:
        Shape (S,), >= 0.
    """
    # At a correlation of 1 the square of a difference is left, which rounding may put below 0.
    return (down.square() - 2.0 * correlation * down * up + up.square()).clamp_min(0.0)


def _renumbered(numbers: Tensor) -> Tensor:
    """The same without gaps, shape (n,), in the same order."""
    return ((torch.bincount(numbers) > 0).cumsum(0) - 1)[numbers]


def _summed(parts: Tensor, values: Tensor) -> Tensor:
    """Sums over the strata of each part, shape (P,)."""
    return torch.bincount(parts, weights=values)
