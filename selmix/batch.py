"""What one SGD step is made on: a batch of pairs, or of samples whose loss is weighted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from selmix.augment import weak
from selmix.config import FinetuneConfig
from selmix.data.splits import Split
from selmix.loss_weights import uniform_samples, weighted_cross_entropy
from selmix.mixup import draw_coefficients, mixed_logits
from selmix.model import ClassifierView
from selmix.parallel.world import ALONE, World
from selmix.sampler import PairSampler


class Samples(Protocol):
    """Where the second samples of pairs are read."""

    def batch(self, index: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Batch:
    """Samples of one step.

    Attributes:
        labels: shape (n,). inputs: shape (n, ...).
        others, coefficients: what the inputs are mixed with, shape (n, ...), and lam, shape (n,); None: not mixed.
        weights: of the samples' losses, shape (n,); None: alike.
    """

    labels: Tensor
    inputs: Tensor
    others: Tensor | None = None
    coefficients: Tensor | None = None
    weights: Tensor | None = None

    def parts(self, count: int) -> list[Batch]:
        """``count`` batches of equal size, which divides n, in order."""
        if count == 1:
            return [self]
        columns = {name: value.chunk(count) for name, value in vars(self).items() if value is not None}
        return [Batch(**{name: chunks[i] for name, chunks in columns.items()}) for i in range(count)]

    def loss(self, view: ClassifierView, layer: str) -> Tensor:
        """Mean cross-entropy of the samples, mixed at ``layer``; a scalar."""
        if self.others is None or self.coefficients is None:
            logits = view.logits(self.inputs)
        else:
            logits = mixed_logits(view, self.inputs, self.others, self.coefficients, layer)
        if self.weights is None:
            return F.cross_entropy(logits, self.labels)
        return weighted_cross_entropy(logits, self.labels, self.weights)


def pair_batch(
    pool: Split, second: Samples, sampler: PairSampler, config: FinetuneConfig, generator: torch.Generator,
    world: World = ALONE,
) -> Batch:  # fmt: skip
    """Pairs drawn by the sampler's policy: the first from ``pool``, with its label, the other from ``second``.

    Every rank of a world draws the whole batch and keeps its rows: only these are read and decoded.
    """
    first, other = (world.part(index) for index in sampler.draw(config.batch_size, generator))
    inputs = _augmented(pool.batch(first), config, generator, world)
    if not config.mixes:
        return Batch(pool.labels[first], inputs)
    others = _augmented(second.batch(other), config, generator, world)
    coefficients = world.part(draw_coefficients(config.batch_size, config.coefficient_min, generator))
    return Batch(pool.labels[first], inputs, others, coefficients.to(inputs.device, non_blocking=True))


def weighted_batch(
    pool: Split, weights: Tensor, config: FinetuneConfig, generator: torch.Generator, world: World = ALONE
) -> Batch:
    """Samples of the pool drawn alike, each with its weight; ``weights``: of every sample of the pool, shape (n,).

    Ranks share it as they do in :func:`pair_batch`.
    """
    drawn = world.part(uniform_samples(len(pool), config.batch_size, generator)).to(weights.device)
    inputs = _augmented(pool.batch(drawn), config, generator, world)
    return Batch(pool.labels[drawn], inputs, weights=weights[drawn])


def _augmented(inputs: Tensor, config: FinetuneConfig, generator: torch.Generator, world: World) -> Tensor:
    if config.augment != "weak":
        return inputs
    return weak(inputs, generator, config.batch_size, world.rows(config.batch_size))
