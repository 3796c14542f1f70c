"""One batch of a run: the labels of its pairs, their inputs, and the mixing coefficients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from selmix.augment import weak
from selmix.config import FinetuneConfig
from selmix.data.splits import Split
from selmix.mixup import draw_coefficients
from selmix.parallel import World
from selmix.sampler import PairSampler
from selmix.second import UnlabelledPool


@dataclass(frozen=True)
class BatchSource:
    """Draws whole batches, and makes of each what one rank works on: only its rows are read and decoded.

    Attributes:
        pool: the samples that carry the labels. second: where the others come from; None: the pool.
        generator: on the CPU; at the same state on every rank before and after a draw.
    """

    pool: Split
    second: UnlabelledPool | None
    config: FinetuneConfig
    generator: torch.Generator
    world: World

    def draw(self, sampler: PairSampler) -> list[Tensor]:
        """Labels and inputs of this rank's rows; where pairs are mixed also the other inputs and lam."""
        size, least = self.config.batch_size, self.config.coefficient_min
        first, second = (self.world.part(index) for index in sampler.draw(size, self.generator))
        inputs = self._augmented(self.pool.batch(first))
        batch = [self.pool.labels[first], inputs]
        if least < 1.0:
            others = self.pool.batch(second) if self.second is None else self.second.batch(second)
            others = self._augmented(others)
            coefficients = self.world.part(draw_coefficients(size, least, self.generator))
            batch += [others, coefficients.to(inputs.device, non_blocking=True)]
        return batch

    def _augmented(self, inputs: Tensor) -> Tensor:
        if self.config.augment != "weak":
            return inputs
        size = self.config.batch_size
        return weak(inputs, self.generator, size, self.world.rows(size))
