"""World: ranks as threads that meet in a sum or a maximum give what a single process has."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selmix.data.images import Images
from selmix.parallel import ALONE, RanksDiffer, World


class Meeting:
    """`all_reduce` between threads: each brings its tensor, and takes the same result with it."""

    def __init__(self, size: int) -> None:
        self.size, self.barrier, self.brought = size, threading.Barrier(size, timeout=20), threading.local()
        self.tensors: dict[int, Tensor] = {}

    def all_reduce(self, tensor: Tensor, op: Any = dist.ReduceOp.SUM) -> None:
        self.tensors[self.brought.rank] = tensor.clone()
        self.barrier.wait()
        stacked = torch.stack([self.tensors[rank] for rank in range(self.size)])
        tensor.copy_(stacked.sum(0) if op == dist.ReduceOp.SUM else stacked.amax(0))
        self.barrier.wait()

    def each(self, work: Callable[[World], Any]) -> list[Any]:
        """Results of the ranks, in their order."""

        def one(rank: int) -> Any:
            self.brought.rank = rank
            return work(World(rank, self.size))

        with ThreadPoolExecutor(self.size) as pool, pytest.MonkeyPatch.context() as patch:
            patch.setattr(dist, "all_reduce", self.all_reduce)
            return list(pool.map(one, range(self.size)))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(0, 9), st.sampled_from([(), (3,), (2, 2)]))
def test_parts_that_are_gathered_are_the_whole_on_every_rank(
    size: int, more: int, shape: tuple[int, ...]
) -> None:
    count = size + more
    rows = torch.rand(count, *shape, generator=torch.Generator().manual_seed(count))
    for whole in Meeting(size).each(lambda world: world.gathered(world.part(rows), count)):
        assert torch.equal(whole, rows)


def test_a_sum_is_in_place_and_alike_on_every_rank() -> None:
    def summed(world: World) -> tuple[bool, list[float]]:
        own = torch.tensor([1.0, float(world.rank)])
        return world.sum_(own) is own, own.tolist()

    assert Meeting(3).each(summed) == [(True, [3.0, 3.0])] * 3
    assert ALONE.sum_(torch.ones(2)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("values", [[0.25], [float("inf"), -1.0], [1e-300, 2.0**60 + 1]])
def test_ranks_that_agree_are_not_stopped(values: list[float]) -> None:
    tensors = [torch.tensor(value, dtype=torch.float64) for value in values]
    assert Meeting(3).each(lambda world: world.check_alike(*tensors)) == [None] * 3


def test_a_single_rank_that_differs_in_its_last_bit_stops_all() -> None:
    value = torch.tensor(0.1)

    def checked(world: World) -> str:
        own = torch.nextafter(value, torch.tensor(1.0)) if world.rank == 1 else value
        with pytest.raises(RanksDiffer) as error:
            world.check_alike(torch.tensor(2.0), own)
        return str(error.value)

    (text,) = set(Meeting(3).each(checked))
    low, high = [2.0, float(value)], [2.0, float(torch.nextafter(value, torch.tensor(1.0)))]
    assert (
        f"the 3 workers of a run must compute the same policy and weights, got values from {low} to {high}"
        in text
    )
    assert text.endswith("run them on machines and GPUs of one kind")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_images_are_shared_by_index_and_none_is_read(size: int) -> None:
    names = tuple(f"/no/such/{k}.png" for k in range(5))
    inputs = Images(files=names)
    parts = [World(rank, size).part_of_inputs(inputs) for rank in range(size)]
    assert [name for part in parts for name in part.files] == list(names)  # type: ignore[union-attr]
    plain = torch.arange(5)
    assert torch.equal(torch.cat([World(rank, size).part_of_inputs(plain) for rank in range(size)]), plain)  # type: ignore[arg-type]
