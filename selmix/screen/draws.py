"""Draws of a whole round at once, number for number those of the single fine-tuner's steps.

A step of the single fine-tuner asks its generator for 3 B numbers in float64 and then for B in float32. In one go these
are read here from the generator's own words of 32 bits: torch makes a float64 of two words, of which it keeps 53 bits,
and a float32 of one, of which it keeps 24.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selmix.config import FinetuneConfig
from selmix.sampler import PairSampler

_HALF = 2**32 - 1
# Bits that torch keeps of two words, and of one.
_DOUBLE, _SINGLE = 53, 24


@dataclass(frozen=True)
class Pool:
    """Samples that pairs are drawn from: the first ``size`` of the screen's samples.

    Attributes:
        size: number of samples, n.
        strata: stratum of each, shape (n,).
        sampler: draws samples of given pairs of strata.
    """

    size: int
    strata: Tensor
    sampler: PairSampler

    @classmethod
    def of(cls, strata: Tensor, num_strata: int) -> Pool:
        """Pool of samples with these strata, shape (n,)."""
        return cls(len(strata), strata, PairSampler(strata, num_strata))

    @property
    def drawable(self) -> Tensor:
        """Mask of the pairs that can be drawn, shape (S, S), bool."""
        return self.sampler.drawable

    @property
    def counts(self) -> Tensor:
        """Samples of each stratum, shape (S,)."""
        return self.sampler.counts


@dataclass(frozen=True)
class Stretch:
    """Samples of all steps of a row's round.

    Attributes:
        first: indices of the samples that carry the labels, shape (n, B).
        other: indices of their partners, shape (n, B); None if nothing is mixed.
        coefficients: weight of the first sample in the mixture, shape (n, B), float32; None if nothing is mixed.
        weights: weight of each sample's loss, shape (n, B), float32; None for equal ones.
    """

    first: Tensor
    other: Tensor | None = None
    coefficients: Tensor | None = None
    weights: Tensor | None = None


def pair_numbers(
    generator: torch.Generator, steps: int, batch_size: int, mixes: bool
) -> tuple[Tensor, Tensor | None]:
    """Uniform numbers of the steps of a round, as ``steps`` calls of the samplers would draw them.

    Args:
        generator: of the run, on the CPU.
        steps: n.
        batch_size: B.
        mixes: True if mixing coefficients are drawn after the pairs of every step.
    Returns:
        Numbers in [0, 1) that choose pairs, first and partner samples, shape (n, 3, B), float64, and those of the
        coefficients, shape (n, B), float32, or None.
    """
    shape = (steps, 3, batch_size)
    if not mixes:
        return torch.rand(*shape, generator=generator, dtype=torch.float64), None
    words = _words(generator, 7 * batch_size * steps).reshape(steps, 7 * batch_size)
    ends = 6 * batch_size
    pairs = (words[:, 0:ends:2] << 32) | words[:, 1:ends:2]
    # Powers of two: the products are exact.
    doubles = (pairs & (2**_DOUBLE - 1)) * 2.0**-_DOUBLE
    singles = (words[:, ends:] & (2**_SINGLE - 1)).astype(np.float32) * np.float32(2.0**-_SINGLE)
    return torch.from_numpy(doubles).view(shape), torch.from_numpy(singles)


def _words(generator: torch.Generator, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The next words of a generator, in order; of the last of an odd number only the lower 24 bits."""
    # The full range of int64 takes two words as they are, the first one in the upper half.
    both = torch.empty(count // 2, dtype=torch.int64).random_(-(2**63), None, generator=generator).numpy()
    words = np.empty(count, dtype=np.int64)
    words[0 : count - 1 : 2] = (both >> 32) & _HALF
    words[1:count:2] = both & _HALF
    if count % 2:
        words[-1] = int(float(torch.rand((), generator=generator)) * 2**_SINGLE)
    return words


def sample_numbers(generator: torch.Generator, steps: int, batch_size: int, total: int) -> Tensor:
    """Indices below ``total`` of the steps of a round whose samples are drawn one by one, shape (n, B).

    Args:
        generator: of the run, on the CPU.
        steps: n.
        batch_size: B.
        total: number of samples.
    """
    return torch.randint(total, (steps, batch_size), generator=generator)


def cumulative(policies: Tensor) -> tuple[Tensor, Tensor]:
    """Cumulative sums of policies over their pairs, and the index of the last pair with weight.

    Args:
        policies: P of each row, shape (p, S, S), float64.
    Returns:
        Shapes (p, S S) and (p, 1).
    """
    sums = policies.flatten(1).cumsum(dim=1)
    return sums, torch.searchsorted(sums, sums[:, -1:].contiguous())


def drawn_pairs(
    config: FinetuneConfig, pool: Pool, sums: Tensor, last: Tensor, numbers: Tensor, coefficients: Tensor | None
) -> Stretch:
    """Samples of the pairs that uniform numbers choose by a policy.

    Args:
        config: ``coefficient_min`` is read.
        pool: the samples.
        sums: cumulative policy, shape (S S,).
        last: index of the last pair with weight, shape (1,).
        numbers: shape (n, 3, B), on the CPU, as :func:`pair_numbers` returns them.
        coefficients: uniform numbers of the coefficients, shape (n, B); None if nothing is mixed.
    """
    uniform = numbers.to(sums.device, non_blocking=True)
    # As in PairSampler.draw: pairs of probability zero are stepped over, and rounding never leads beyond the last pair.
    pairs = torch.minimum(torch.searchsorted(sums, uniform[:, 0].contiguous() * sums[-1], right=True), last)
    first, other = pool.sampler.samples(pairs, uniform[:, 1], uniform[:, 2])
    if coefficients is None:
        return Stretch(first)
    least = config.coefficient_min
    return Stretch(first, other, (least + (1.0 - least) * coefficients).to(sums.device, non_blocking=True))
