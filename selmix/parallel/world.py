"""Ranks that train one model together, each on its part of every batch.

All ranks draw the same pairs and coefficients from generators of one seed, and each works on its own rows: the union
over the ranks is what a single process draws. Gradients are exchanged by torch's DistributedDataParallel. Counts and
prototype sums of the feedback split are added up in float64, and everything that follows from them (gain, policy,
multipliers, the reason to stop) is computed by every rank alike from the same values: nothing has to be broadcast,
and :meth:`World.check_alike` stops a run whose ranks differ all the same.
"""

from __future__ import annotations

import copy
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from selmix.data.images import Inputs
from selmix.model import ClassifierView


class RanksDiffer(RuntimeError):
    """Disagreement of ranks that must have computed the same values."""


@dataclass(frozen=True)
class World:
    """Place of this process among the ranks of a run; a single process is the world of size 1.

    A larger world uses the default process group of ``torch.distributed``, which must have been made.

    Attributes:
        rank: of this process, 0 <= rank < size.
        size: ranks in all.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """True if this rank is the one that keeps and writes what all have."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """Slice of ``count`` rows that is this rank's part; parts follow one another and differ by one row at most.

        Raises:
            ValueError: there are fewer rows than ranks.
        """
        if count < self.size:
            raise ValueError(f"workers: must be at most the samples of a split, {count}, got {self.size}")
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def check_batch(self, batch_size: int, accumulate: int) -> None:
        """Check that a batch falls into equal shares of the ranks, and a share into equal parts.

        Raises:
            ValueError: it does not.
        """
        # Gradients are averaged over ranks and parts: of unequal parts the mean would not be that of the batch.
        if batch_size % (self.size * accumulate):
            raise ValueError(
                f"batch_size: must be a multiple of workers x accumulate, {self.size} x {accumulate}, got {batch_size}"
            )

    def part(self, rows: Tensor) -> Tensor:
        """This rank's rows of a tensor of shape (n, ...)."""
        return rows if self.size == 1 else rows[self.rows(len(rows))]

    def part_of_inputs(self, inputs: Inputs) -> Inputs:
        """This rank's inputs of a split, which need not be a tensor."""
        if self.size == 1:
            return inputs
        if isinstance(inputs, Tensor):
            return self.part(inputs)
        # Images are taken by index only; none is read here.
        mine = self.rows(len(inputs))
        return inputs[torch.arange(mine.start, mine.stop)]

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the ranks, in place, with the same bits on every rank."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gathered(self, rows: Tensor, count: int) -> Tensor:
        """All ``count`` rows, of which each rank has :meth:`rows`."""
        if self.size == 1:
            return rows
        # Not all_gather: parts differ in size, which not every backend allows. The sum is exact: all others add zeros.
        whole = rows.new_zeros(count, *rows.shape[1:])
        whole[self.rows(count)] = rows
        return self.sum_(whole)

    def replicated(self, view: ClassifierView) -> ClassifierView:
        """View of the same model whose gradients are the mean over the ranks after a backward pass.

        The weights of rank 0 are copied to the others. The statistics of batch normalisation are frozen, so that no
        buffer is exchanged in the forward pass.
        """
        if self.size == 1:
            return view
        # The given view keeps the plain network: evaluation has no gradients to exchange.
        stepped = copy.copy(view)
        with warnings.catch_warnings():
            # The option has a new name in torch 2.14, which earlier ones that are supported do not know.
            warnings.simplefilter("ignore", FutureWarning)
            stepped.network = DistributedDataParallel(view.model, broadcast_buffers=False)
        return stepped

    def alone(self, view: ClassifierView) -> AbstractContextManager[object]:
        """Context in which the gradients of a replicated view add up without an exchange between the ranks."""
        network = view.network
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()

    def check_alike(self, *values: Tensor) -> None:
        """Compare numbers that every rank must have computed to the same bits.

        Raises:
            RanksDiffer: they are not the same on all ranks.
        """
        if self.size == 1:
            return
        own = torch.stack([value.detach().double() for value in values])
        # The maximum of -x is minus the minimum of x: one exchange gives both ends.
        ends = torch.cat([own, -own])
        dist.all_reduce(ends, op=dist.ReduceOp.MAX)
        highest, lowest = ends[: len(own)], -ends[len(own) :]
        if not torch.equal(highest, lowest):
            raise RanksDiffer(
                f"the {self.size} workers of a run must compute the same policy and weights, got values from "
                f"{lowest.tolist()} to {highest.tolist()}; run them on machines and GPUs of one kind"
            )


ALONE = World()
