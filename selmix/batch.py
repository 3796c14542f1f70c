"""One batch of an SGD step: pairs of samples to mix, or samples whose losses are weighted."""

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
    """Source of the partner samples of pairs."""

    def batch(self, index: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Batch:
    """Samples of one step.

    Attributes:
        labels: class of each sample, shape (n,).
        inputs: shape (n, ...).
        others: partner samples that the inputs are mixed with, shape (n, ...); None if nothing is mixed.
        coefficients: lam, the weight of ``inputs`` in the mixture, shape (n,); None if nothing is mixed.
        weights: weight of each sample's loss, shape (n,); None for equal weights.
    """

    labels: Tensor
    inputs: Tensor
    others: Tensor | None = None
    coefficients: Tensor | None = None
    weights: Tensor | None = None

    def parts(self, count: int) -> list[Batch]:
        """Split into ``count`` batches of equal size, in order; ``count`` must divide n."""
        if count == 1:
            return [self]
        # A field that is None is left out, so that every part has the default None too.
        columns = {name: value.chunk(count) for name, value in vars(self).items() if value is not None}
        return [Batch(**{name: chunks[i] for name, chunks in columns.items()}) for i in range(count)]

    def loss(self, view: ClassifierView, layer: str, log_prior: Tensor | None = None) -> Tensor:
        """Mean cross-entropy of the samples, mixed at ``layer``; a scalar.

        Args:
            view: the model.
            layer: at which samples are mixed.
            log_prior: added to the logits, shape (K,); None for nothing.
        """
        if self.others is None or self.coefficients is None:
            logits = view.logits(self.inputs)
        else:
            logits = mixed_logits(view, self.inputs, self.others, self.coefficients, layer)
        if log_prior is not None:
            logits = logits + log_prior
        # Against the label of the first sample alone, also for mixed samples: that is the loss that the gain is of.
        if self.weights is None:
            return F.cross_entropy(logits, self.labels)
        return weighted_cross_entropy(logits, self.labels, self.weights)


def pair_batch(
    pool: Split, second: Samples, sampler: PairSampler, config: FinetuneConfig, generator: torch.Generator,
    world: World = ALONE,
) -> Batch:  # fmt: skip
    """Draw a batch of pairs by the sampler's policy.

    Every rank of a world draws the whole batch and keeps its own rows: only these are read and decoded.

    Args:
        pool: source of the first samples, which carry the labels.
        second: source of the partner samples.
        sampler: draws the indices of both.
        config: ``batch_size``, ``augment`` and the mixing coefficient's settings are read.
        generator: source of all draws, on the CPU.
        world: the ranks that share the batch.
    Returns:
        This rank's rows; without partners where the settings mix nothing.
    """
    # The order of the draws (indices, augmentation, coefficients) is part of a run's bits.
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
    """Draw a batch of samples uniformly from the pool, each with its weight.

    Args:
        pool: the samples to draw from.
        weights: weight of the loss of every sample of the pool, shape (n,).
        config: ``batch_size`` and ``augment`` are read.
        generator: source of all draws, on the CPU.
        world: the ranks that share the batch, as in :func:`pair_batch`.
    """
    drawn = world.part(uniform_samples(len(pool), config.batch_size, generator)).to(weights.device)
    inputs = _augmented(pool.batch(drawn), config, generator, world)
    return Batch(pool.labels[drawn], inputs, weights=weights[drawn])


def _augmented(inputs: Tensor, config: FinetuneConfig, generator: torch.Generator, world: World) -> Tensor:
    if config.augment != "weak":
        return inputs
    return weak(inputs, generator, config.batch_size, world.rows(config.batch_size))
