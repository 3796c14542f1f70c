"""Two models on the same samples: correlation of their hits, and the difference of their minima."""

from __future__ import annotations

import torch
from torch import Tensor

from selmix.statistics.proportions import clopper_pearson, sidak, wilson

# Of two bounds either may miss. Simulated, with each at 0.8 alpha both together miss as often as alpha says, at worst.
SPLIT = 0.8


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


def least_mean_difference(
    strata: Tensor, parts: Tensor, ours: Tensor, theirs: Tensor, alpha: float
) -> tuple[float, float]:
    """Bounds at level 1 - alpha of min_p m_p(ours) - min_p m_p(theirs), m_p the mean of the recalls of part p.

    Let p attain the true minimum of ours. The difference is m_p(ours) - min(theirs), and at least m_p(ours) -
    m_p(theirs). So each part has two lower bounds: Newcombe's of the paired difference (1998, method 10), which knows
    that both are judged on the same samples, and MOVER's of m_p(ours) and the least of theirs. The higher counts, and
    the lowest over the parts holds whichever p is, with no correction for their number. The upper bound is the same
    with the sides changed. How often they miss, for models alike and unlike, is simulated by the tests.

    Args:
        strata: of each sample, shape (n,).
        parts: part of each stratum, shape (S,); a stratum without samples is left out.
        ours: True where our model is right, shape (n,).
        theirs: True where the other model is right, shape (n,).
        alpha: probability to miss the interval.
    Returns:
        Lower and upper bound.
    """
    present = torch.bincount(strata, minlength=len(parts)) > 0
    strata, parts = _renumbered(strata), _renumbered(parts[present])
    trials = torch.bincount(strata).double()
    a, b = (recalls_of(strata, side, len(parts)) for side in (ours, theirs))
    # Newcombe's continuity correction, with the samples of the whole part and not of one stratum.
    phi = correlations(strata, ours, theirs, len(parts), 0.5 / _summed(parts, trials)[parts])
    lower = _lower(parts, trials, a, b, phi, SPLIT * alpha)
    return lower, -_lower(parts, trials, b, a, phi, SPLIT * alpha)


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


def _lower(parts: Tensor, trials: Tensor, a: Tensor, b: Tensor, phi: Tensor, alpha: float) -> float:
    """Lower bound of the difference of minima, from recalls ``a`` and ``b`` of the strata, shape (S,)."""
    # Every stratum of a part weighs the same in its mean.
    shares = 1.0 / torch.bincount(parts).double()[parts]
    mean_a, mean_b = _summed(parts, shares * a), _summed(parts, shares * b)

    down = a - wilson(a * trials, trials, alpha)[0]
    up = wilson(b * trials, trials, alpha)[1] - b
    squares = shares.square() * paired_squares(down, up, phi)
    paired = mean_a - mean_b - _summed(parts, squares).sqrt()

    # Effective samples of a part, as in :func:`selmix.statistics.proportions.mean_bounds`.
    samples = 1.0 / _summed(parts, shares.square() / trials)
    # Any part may hold the minimum of theirs, so their upper bounds must hold at once; of ours p alone must.
    low, _ = clopper_pearson(mean_a * samples, samples, alpha / 2.0)
    _, high = clopper_pearson(mean_b * samples, samples, sidak(alpha / 2.0, len(samples)))
    apart = mean_a - mean_b.min() - torch.hypot(mean_a - low, high.min() - mean_b.min())
    return float(torch.maximum(paired, apart).min())


def _renumbered(numbers: Tensor) -> Tensor:
    """The same without gaps, shape (n,), in the same order."""
    return ((torch.bincount(numbers) > 0).cumsum(0) - 1)[numbers]


def _summed(parts: Tensor, values: Tensor) -> Tensor:
    """Sums over the strata of each part, shape (P,)."""
    return torch.bincount(parts, weights=values)
