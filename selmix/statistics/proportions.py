"""Confidence bounds of proportions. The only import of scipy in this package, inside its functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Bounds = tuple[float, float]
"""Lower and upper confidence bound."""


def clopper_pearson(hits: Tensor, trials: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Exact one-sided confidence bounds of proportions, each missed with probability ``alpha`` at most.

    Args:
        hits: shape (K,); effective numbers need not be whole.
        trials: shape (K,), likewise.
        alpha: probability to miss one bound, in (0, 1).
    Returns:
        Lower and upper bounds, each of shape (K,), float64.
    """
    # scipy.stats.beta.ppf without its checks, which take most of its time.
    from scipy.special import betaincinv

    x, n = hits.double().numpy(), trials.double().numpy()
    low = torch.from_numpy(betaincinv(x, n - x + 1.0, alpha))
    high = torch.from_numpy(betaincinv(x + 1.0, n - x, 1.0 - alpha))
    # Without a hit, or without a miss, the quantile is not defined (NaN): the bound is the end of the scale.
    return torch.where(hits > 0, low, 0.0), torch.where(hits < trials, high, 1.0)


def wilson(hits: Tensor, trials: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Wilson's score interval of proportions.

    Args:
        hits: shape (K,).
        trials: shape (K,).
        alpha: 1 - the level of the interval.
    Returns:
        Lower and upper bounds, each of shape (K,), float64.
    """
    from scipy.special import ndtri

    z = float(ndtri(1.0 - alpha / 2.0))
    n = trials.double()
    p = hits.double() / n
    centre = (p + z * z / (2.0 * n)) / (1.0 + z * z / n)
    half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt()
    # Rounding may put a bound beyond the proportion itself, or beyond 0 and 1.
    return torch.minimum(p, (centre - half).clamp_min(0.0)), torch.maximum(p, (centre + half).clamp_max(1.0))


def normal_quantile(alpha: float) -> float:
    """Distance in standard deviations that a normal variable exceeds with probability ``alpha``."""
    from scipy.special import ndtri

    return -float(ndtri(alpha))


def sidak(alpha: float, count: int) -> float:
    """Miss probability of each of ``count`` independent bounds that all hold with probability 1 - alpha."""
    return float(1.0 - (1.0 - alpha) ** (1.0 / count))


def mover_difference(values: tuple[float, float], limits: tuple[Bounds, Bounds]) -> Bounds:
    """Limits of a difference from those of its two sides, which are taken for independent.

    Args:
        values: of the two sides.
        limits: of each; a value outside its limits counts as one of them.
    Returns:
        Lower and upper limit of the first minus the second.
    Source: MOVER, Zou and Donner, "Construction of confidence limits about effect measures", Statistics in Medicine
        2008.
    """
    (a, b), ((low_a, high_a), (low_b, high_b)) = values, limits
    low = a - b - math.hypot(a - min(low_a, a), max(high_b, b) - b)
    return low, a - b + math.hypot(max(high_a, a) - a, b - min(low_b, b))


def student_quantile(freedom: float, alpha: float) -> float:
    """Two-sided quantile of Student's t at level 1 - alpha."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1.0 - alpha / 2.0))
