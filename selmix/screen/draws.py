"""Draws of a whole round at once, number for number those of the single fine-tuner's steps.

A step of the single fine-tuner asks its generator for 3 B numbers in float64 and then for B in float32. In one go these
are read here from the generator's own words of 32 bits: torch makes a float64 of two words, of which it keeps 53 bits,
and a float32 of one, of which it keeps 24.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from selmix.config import FinetuneConfig
from selmix.loss_weights import stratum_weights
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

    @cached_property
    def drawable(self) -> Tensor:
        """Mask of the pairs that can be drawn, shape (S, S), bool."""
        # Every row of every round asks for it.
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
    generators: Sequence[torch.Generator], steps: int, batch_size: int, mixes: bool
) -> tuple[Tensor, Tensor | None]:
    """Uniform numbers of the steps of a round of r runs, as ``steps`` calls of the samplers would draw them in each.

    Args:
        generators: of the runs, on the CPU.
        steps: n.
        batch_size: B.
        mixes: True if mixing coefficients are drawn after the pairs of every step.
    Returns:
        Numbers in [0, 1) that choose pairs, first and partner samples, shape (r, n, 3, B), float64, and those of the
        coefficients, shape (r, n, B), float32, or None.
    """
    shape = (len(generators), steps, 3, batch_size)
    if not mixes:
        drawn = torch.empty(shape, dtype=torch.float64)
        for row, generator in zip(drawn, generators, strict=True):
            torch.rand(row.shape, generator=generator, out=row)
        return drawn, None
    words = _words(generators, 7 * batch_size * steps).reshape(len(generators), steps, 7 * batch_size)
    ends = 6 * batch_size
    pairs = (words[..., 0:ends:2] << 32) | words[..., 1:ends:2]
    # Powers of two: the products are exact.
    doubles = (pairs & (2**_DOUBLE - 1)) * 2.0**-_DOUBLE
    singles = (words[..., ends:] & (2**_SINGLE - 1)).astype(np.float32) * np.float32(2.0**-_SINGLE)
    return torch.from_numpy(doubles).view(shape), torch.from_numpy(singles)


def _words(
    generators: Sequence[torch.Generator], count: int
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """The next words of generators, in order, shape (r, count); of the last of an odd number only the lower 24 bits."""
    words = np.empty((len(generators), count), dtype=np.int64)
    both = torch.empty(len(generators), count // 2, dtype=torch.int64)
    for row, generator in enumerate(generators):
        # The full range of int64 takes two words as they are, the first one in the upper half.
        both[row].random_(-(2**63), None, generator=generator)
        if count % 2:
            words[row, -1] = int(float(torch.rand((), generator=generator)) * 2**_SINGLE)
    words[:, 0 : count - 1 : 2] = (both.numpy() >> 32) & _HALF
    words[:, 1:count:2] = both.numpy() & _HALF
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


@dataclass(frozen=True)
class Draw:
    """What the samples of a row's round are drawn by.

    Attributes:
        config: batch size, policy and mixing are read.
        generator: of the row.
        pool: the samples.
        steps: of the round.
    """

    config: FinetuneConfig
    generator: torch.Generator
    pool: Pool
    steps: int

    @property
    def kind(self) -> tuple[int, int, int, bool]:
        """Rows of one kind are drawn together: pool, steps, batch size, mixing."""
        return id(self.pool), self.steps, self.config.batch_size, self.config.mixes


def draw_stretches(draws: Sequence[Draw], policies: Tensor) -> list[Stretch]:
    """Draw the samples of a round of each row.

    Args:
        draws: rows, r of them.
        policies: P of each, shape (r, S, S), float64.
    """
    found: list[Stretch | None] = [None] * len(draws)
    kinds: dict[tuple[int, int, int, bool], list[int]] = {}
    for place, draw in enumerate(draws):
        # The seed of dropout and the like, of which a frozen backbone has none: drawn all the same, as in a single run.
        torch.randint(2**62, (), generator=draw.generator)
        if draw.config.pair_policy.mixes:
            kinds.setdefault(draw.kind, []).append(place)
            continue
        weights = stratum_weights(policies[place], draw.pool.counts)[draw.pool.strata]
        drawn = sample_numbers(draw.generator, draw.steps, draw.config.batch_size, draw.pool.size)
        drawn = drawn.to(weights.device)
        found[place] = Stretch(drawn, weights=weights[drawn].float())
    for places in kinds.values():
        some = [draws[place] for place in places]
        for place, stretch in zip(places, _drawn_pairs(some, policies[places]), strict=True):
            found[place] = stretch
    return [stretch for stretch in found if stretch is not None]


def _drawn_pairs(draws: Sequence[Draw], policies: Tensor) -> list[Stretch]:
    """Pairs of rows of one kind."""
    head, device = draws[0], policies.device
    numbers, coefficients = pair_numbers(
        [draw.generator for draw in draws], head.steps, head.config.batch_size, head.config.mixes
    )
    # Not blocking: nothing here waits for the device.
    choice, first, partner = numbers.to(device, non_blocking=True).unbind(dim=2)
    sums = policies.flatten(1).cumsum(dim=1)
    total = sums[:, -1:].contiguous()
    last = torch.searchsorted(sums, total)
    # As in PairSampler.draw: pairs of probability zero are stepped over, and rounding never leads beyond the last pair.
    places = torch.searchsorted(sums, choice.flatten(1) * total, right=True)
    pairs = torch.minimum(places, last).view_as(choice)
    firsts, others = head.pool.sampler.samples(pairs, first, partner)
    if coefficients is None:
        return [Stretch(index) for index in firsts]
    least = torch.tensor([draw.config.coefficient_min for draw in draws], dtype=torch.float64).view(-1, 1, 1)
    # Rounded to float32 one by one, as the single fine-tuner's sum of a number and a tensor is.
    mixed = (least.float() + (1.0 - least).float() * coefficients).to(device, non_blocking=True)
    return [Stretch(*parts) for parts in zip(firsts, others, mixed, strict=True)]
