"""A run on several processes of this machine, on CPUs, without Ray: what ``reproduce`` and ``plan`` need of one."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from selmix.config import FinetuneConfig
from selmix.data.splits import SweepData
from selmix.objectives import AnyObjective
from selmix.parallel.process_group import on_local_ranks
from selmix.parallel.world import World
from selmix.run.run import Run, finetune
from selmix.run.start_model import Base
from selmix.statistics.selection import SelectionRule


class RunRequest(NamedTuple):
    """What a run is made of, in the order of :class:`selmix.run.run.Run`."""

    data: SweepData
    base: Base
    objective: AnyObjective
    config: FinetuneConfig
    seed: int
    selection: SelectionRule


def finetune_on_workers(workers: int, request: RunRequest) -> Run:
    """A run stepped to its end by so many workers, each with the torch threads that are set here.

    Bits depend on the number of workers: on one stack the same number gives the same bits.
    """
    if workers == 1:
        return finetune(*request)
    with tempfile.TemporaryDirectory(prefix="selmix-run-") as folder:
        on_local_ranks(_finetune, workers, torch.get_num_threads(), folder, request)
        run = Run(*request)
        run.load(Path(folder))
    return run


def _finetune(world: World, folder: str, request: RunRequest) -> None:
    run = finetune(*request, world=world)
    if world.is_first:
        run.save(Path(folder))


def seconds_of_rounds(workers: int, most: int, request: RunRequest) -> list[float]:
    """Wall-clock seconds of round 0 and of at most ``most`` rounds after it, by so many workers."""
    if workers == 1:
        return _seconds(Run(*request), most)
    with tempfile.TemporaryDirectory(prefix="selmix-probe-") as folder:
        told = Path(folder) / "seconds.json"
        on_local_ranks(_probe, workers, torch.get_num_threads(), str(told), most, request)
        seconds: list[float] = json.loads(told.read_text())
    return seconds


def _probe(world: World, told: str, most: int, request: RunRequest) -> None:
    seconds = _seconds(Run(*request, world=world), most)
    if world.is_first:
        Path(told).write_text(json.dumps(seconds))


def _seconds(run: Run, most: int) -> list[float]:
    seconds: list[float] = []
    while not run.finished and len(seconds) <= most:
        started = time.perf_counter()
        run.step()
        seconds.append(time.perf_counter() - started)
    return seconds
