"""Draws of confusion matrices around a given one, row by row."""

from __future__ import annotations

import torch
from torch import Tensor


def dirichlet_rows(counts: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Draw rows of shares around ``counts``, scaled back to the row sums: a Bayesian bootstrap.

    Args:
        counts: shape (K, K).
        draws: number of matrices.
        generator: source of the draws.
    Returns:
        Shape (draws, K, K), float64.
    """
    # Normalised gamma variables are Dirichlet ones; torch.distributions takes no generator. Half a count is spread over
    # each row: without it a row without errors would not vary between draws.
    concentration = counts + 0.5 / counts.shape[1]
    gamma = torch._standard_gamma(concentration.expand(draws, -1, -1), generator=generator)
    return gamma / gamma.sum(dim=-1, keepdim=True) * counts.sum(dim=1, keepdim=True)


def resample_rows(
    counts: Tensor, resamples: int, generator: torch.Generator, totals: Tensor | None = None
) -> Tensor:
    """Draw multinomial resamples of every row, as a chain of conditional binomials.

    Args:
        counts: shape (K, K), float64; they need not be whole numbers.
        resamples: number of resamples.
        generator: source of the draws, on the CPU.
        totals: samples of each row, whole numbers, shape (K,); None for the sums of ``counts``.
    Returns:
        Shape (resamples, K, K), float64; row sums are the totals.
    """
    rest = (counts.sum(dim=1) if totals is None else totals).expand(resamples, -1).clone()
    weight = counts.sum(dim=1).clone()
    columns = []
    for column in counts.unbind(dim=1):
        # Once a row has given all its samples away, 0 / 0 must be 0 and rounding must not leave [0, 1].
        p = (column / weight.clamp_min(1e-300)).clamp(0.0, 1.0)
        drawn = torch.binomial(rest, p.expand(resamples, -1), generator=generator)
        columns.append(drawn)
        rest, weight = rest - drawn, weight - column
    return torch.stack(columns, dim=2)
