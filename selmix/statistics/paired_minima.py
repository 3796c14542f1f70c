"""Two models on the same samples: how their hits go together, and the difference of their minima."""

from __future__ import annotations

import torch
from torch import Tensor

from selmix.statistics.proportions import clopper_pearson, sidak, wilson

# Of two limits either may miss. Simulated, with each at 0.8 alpha both together miss as often as alpha says, at worst.
SPLIT = 0.8


def correlations(
    strata: Tensor, ours: Tensor, theirs: Tensor, count: int, continuity: Tensor | float = 0.0
) -> Tensor:
    """Phi coefficient of two models' hits within each stratum, shape (S,); 0 where one has no spread.

    Args:
        strata: of each sample, shape (n,). ours, theirs: whether the models are right, shape (n,).
        continuity: taken from a positive covariance, down to 0; Newcombe's is 1 / (2 n), shape (S,).
    """
    mean_x, mean_y = (recalls_of(strata, side, count) for side in (ours, theirs))
    covariance = recalls_of(strata, ours & theirs, count) - mean_x * mean_y
    covariance = torch.where(covariance > 0, (covariance - continuity).clamp_min(0.0), covariance)
    spread = (mean_x * (1 - mean_x) * mean_y * (1 - mean_y)).sqrt()
    return torch.where(spread > 0, covariance / spread, 0.0)


def recalls_of(strata: Tensor, correct: Tensor, count: int) -> Tensor:
    """Share of the hits in each stratum, shape (S,), float64."""
    hits = torch.bincount(strata, weights=correct.double(), minlength=count)
    return hits / torch.bincount(strata, minlength=count)


def least_mean_difference(
    strata: Tensor, parts: Tensor, ours: Tensor, theirs: Tensor, alpha: float
) -> tuple[float, float]:
    """Limits at level 1 - alpha of min_p m_p(ours) - min_p m_p(theirs), m_p the mean of the recalls of part p.

    Let p attain the true minimum of ours. The difference is m_p(ours) - min(theirs), and at least m_p(ours) -
    m_p(theirs). So each part has two lower limits: Newcombe's of the paired difference (1998, method 10), which knows
    that both are judged on the same samples, and MOVER's of m_p(ours) and the least of theirs. The higher counts, and
    the lowest over the parts holds whichever p is, with no correction for their number. The upper limit is the same
    with the sides changed. How often they miss, for models alike and unlike, is simulated by the tests.

    Args:
        strata: of each sample, shape (n,). parts: part of each stratum, shape (S,); one without samples is left out.
        ours, theirs: whether the models are right, shape (n,).
    """
    there = torch.bincount(strata, minlength=len(parts)) > 0
    strata, parts = _renumbered(strata), _renumbered(parts[there])
    trials = torch.bincount(strata).double()
    a, b = (recalls_of(strata, side, len(parts)) for side in (ours, theirs))
    phi = correlations(strata, ours, theirs, len(parts), 0.5 / _summed(parts, trials)[parts])
    lower = _lower(parts, trials, a, b, phi, SPLIT * alpha)
    return lower, -_lower(parts, trials, b, a, phi, SPLIT * alpha)


def paired_squares(down: Tensor, up: Tensor, correlation: Tensor) -> Tensor:
    """Newcombe's squared distance to a limit of a paired difference, stratum by stratum, from those of its sides."""
    return (down.square() - 2.0 * correlation * down * up + up.square()).clamp_min(0.0)


def _lower(parts: Tensor, trials: Tensor, a: Tensor, b: Tensor, phi: Tensor, alpha: float) -> float:
    shares = 1.0 / torch.bincount(parts).double()[parts]
    mean_a, mean_b = _summed(parts, shares * a), _summed(parts, shares * b)

    down = a - wilson(a * trials, trials, alpha)[0]
    up = wilson(b * trials, trials, alpha)[1] - b
    squares = shares.square() * paired_squares(down, up, phi)
    paired = mean_a - mean_b - _summed(parts, squares).sqrt()

    samples = 1.0 / _summed(
        parts, shares.square() / trials
    )  # of a part: as in :func:`selmix.statistics.proportions.mean_limits`
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
