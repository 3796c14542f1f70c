"""Sampling of pairs of samples for pairs of strata, without a loop over samples."""

from __future__ import annotations

import torch
from torch import Tensor


class PairSampler:
    """Sampler of (x1 from stratum i, x2 from stratum j) with (i, j) from P.

    Args:
        first: strata of the samples that carry the label, shape (n,), int64.
        num_strata: S.
        second: strata of the partner samples, shape (m,), int64; None if they are the same samples.
    """

    def __init__(self, first: Tensor, num_strata: int, second: Tensor | None = None) -> None:
        self._first = _StratumIndex(first, num_strata)
        self._partners = self._first if second is None else _StratumIndex(second, num_strata)
        self._cumulative: Tensor | None = None
        self._last = torch.zeros((), dtype=torch.int64)
        self._num_strata = num_strata

    @property
    def drawable(self) -> Tensor:
        """Mask of the pairs with a sample on both sides, shape (S, S), bool."""
        return (self._first.counts > 0).unsqueeze(1) & (self._partners.counts > 0).unsqueeze(0)

    @property
    def counts(self) -> Tensor:
        """Number of first samples of each stratum, shape (S,), int64."""
        return self._first.counts

    def set_policy(self, policy: Tensor) -> None:
        """Set the P, shape (S, S), that later draws follow.

        Raises:
            ValueError: P has the wrong shape, does not sum to 1, or gives weight to a pair without samples.
        """
        if policy.shape != (self._num_strata, self._num_strata):
            raise ValueError(
                f"policy must be {self._num_strata} x {self._num_strata}, got {tuple(policy.shape)}"
            )
        # Written as `not <`, so that NaN is refused too.
        if not abs(float(policy.sum()) - 1.0) < 1e-6 or bool((policy < 0).any()):
            raise ValueError(f"policy must be >= 0 and sum to 1, got sum {float(policy.sum())}")
        if bool((policy > 0)[~self.drawable].any()):
            raise ValueError(
                "policy gives weight to a pair of strata without samples; mask it with `drawable`"
            )
        # Inverse transform on the flat cumulative sum: torch.multinomial takes at most 2^24 categories, 4,096 strata.
        self._cumulative = policy.double().flatten().cumsum(0)
        # Index of the last pair with weight, kept as a tensor: reading it as a number would wait for the GPU.
        self._last = torch.searchsorted(self._cumulative, self._cumulative[-1])

    def draw(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw a batch of pairs.

        Returns:
            Indices of the first and of the partner samples, each of shape (batch_size,), int64.
        Raises:
            RuntimeError: no policy is set.
        """
        if self._cumulative is None:
            raise RuntimeError("set_policy must be called before draw")
        cumulative = self._cumulative
        device = cumulative.device
        uniform = torch.rand(3, batch_size, generator=generator, dtype=torch.float64, device=generator.device)
        # Not blocking, so that no step waits for the one before.
        uniform = uniform.to(device, non_blocking=True)
        # right=True steps over pairs of probability zero.
        pairs = torch.searchsorted(cumulative, uniform[0] * cumulative[-1], right=True)
        # The product may round up to the whole sum, which lies beyond the last pair.
        pairs = torch.minimum(pairs, self._last)
        return self.samples(pairs, uniform[1], uniform[2])

    def samples(self, pairs: Tensor, first: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
        """Samples of given pairs of strata, one uniformly from each stratum.

        Args:
            pairs: pair (i, j) of strata as i S + j, any shape.
            first: uniform numbers in [0, 1), of the same shape.
            partner: likewise.
        Returns:
            Indices of the first and of the partner samples, of the same shape, int64.
        """
        rows = torch.div(pairs, self._num_strata, rounding_mode="floor")
        columns = pairs % self._num_strata
        return self._first.pick(rows, first), self._partners.pick(columns, partner)


class _StratumIndex:
    """Sample indices sorted by stratum, so that the k-th sample of a stratum is one look-up."""

    def __init__(self, strata: Tensor, num_strata: int) -> None:
        if strata.numel() and (int(strata.min()) < 0 or int(strata.max()) >= num_strata):
            raise ValueError(
                f"strata must lie in [0, {num_strata}), got {int(strata.min())} to {int(strata.max())}"
            )
        # Stable, so that the k-th sample of a stratum is the same one on every machine.
        self._order = torch.argsort(strata, stable=True)
        self.counts = torch.bincount(strata, minlength=num_strata)
        self._offsets = self.counts.cumsum(0) - self.counts

    def pick(self, strata: Tensor, uniform: Tensor) -> Tensor:
        counts = self.counts[strata]
        # The product may round up to the count itself.
        within = (uniform * counts).long().clamp_max(counts - 1)
        return self._order[self._offsets[strata] + within]
