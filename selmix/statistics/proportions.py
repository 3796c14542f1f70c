"""Limits of proportions. The only import of scipy, inside its functions."""

from __future__ import annotations

import torch
from torch import Tensor


def clopper_pearson(hits: Tensor, trials: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Exact one-sided limits of proportions, each missed with probability ``alpha`` at most.

    Args:
        hits, trials: shape (K,).
    Returns:
        Lower and upper limits, each of shape (K,), float64.
    """
    # scipy.stats.beta.ppf without its checks, which take most of its time.
    from scipy.special import betaincinv

    x, n = hits.double().numpy(), trials.double().numpy()
    low = torch.from_numpy(betaincinv(x, n - x + 1.0, alpha))
    high = torch.from_numpy(betaincinv(x + 1.0, n - x, 1.0 - alpha))
    return torch.where(hits > 0, low, 0.0), torch.where(hits < trials, high, 1.0)


def wilson(hits: Tensor, trials: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Wilson's score limits of proportions at level 1 - alpha, each of shape (K,), float64."""
    from scipy.special import ndtri

    z = float(ndtri(1.0 - alpha / 2.0))
    n = trials.double()
    p = hits.double() / n
    centre = (p + z * z / (2.0 * n)) / (1.0 + z * z / n)
    half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt()
    return torch.minimum(p, (centre - half).clamp_min(0.0)), torch.maximum(p, (centre + half).clamp_max(1.0))


def sidak(alpha: float, count: int) -> float:
    """Level of each of ``count`` independent limits that all hold with probability 1 - alpha."""
    return float(1.0 - (1.0 - alpha) ** (1.0 / count))


def mean_limits(shares: Tensor, means: Tensor, trials: Tensor, alpha: float) -> tuple[float, float]:
    """One-sided limits of sum_k share_k p_k: Clopper-Pearson with 1 / sum_k (share_k^2 / n_k) effective samples.

    With equal n the number of hits is a sum of Bernoulli variables of unequal p, which spreads less than the binomial
    of the same mean (Hoeffding 1956), so the limits are conservative.

    Args:
        shares: shape (K,), >= 0, sum 1. means: hits / trials, shape (K,). trials: shape (K,).
    """
    used = shares > 0
    samples = 1.0 / (shares[used].square() / trials[used]).sum()
    hits = (shares[used] * means[used]).sum() * samples
    low, high = clopper_pearson(hits.view(1), samples.view(1), alpha)
    return float(low), float(high)


def student_quantile(freedom: int, alpha: float) -> float:
    """Two-sided quantile of Student's t at level 1 - alpha."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1.0 - alpha / 2.0))
