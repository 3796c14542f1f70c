"""A run on several processes of this machine, on CPUs, without Ray: what ``reproduce`` and ``plan`` need of one."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import torch

from selmix.base import Base
from selmix.config import FinetuneConfig
from selmix.data.splits import SweepData
from selmix.objectives import Objective
from selmix.parallel import World
from selmix.process_group import on_local_ranks
from selmix.run import Run, finetune
from selmix.selection import SelectionRule


def finetune_on_workers(
    workers: int,
    data: SweepData,
    base: Base,
    objective: str | Objective,
    config: FinetuneConfig,
    seed: int,
    selection: SelectionRule,
) -> Run:
    """A run stepped to its end by so many workers, each with the torch threads that are set here.

    Bits depend on the number of workers: on one stack the same number gives the same bits.
    """
    if workers == 1:
        return finetune(data, base, objective, config, seed, selection)
    with tempfile.TemporaryDirectory(prefix="selmix-run-") as folder:
        on_local_ranks(
            _finetune,
            workers,
            torch.get_num_threads(),
            folder,
            data,
            base,
            objective,
            config,
            seed,
            selection,
        )
        run = Run(data, base, objective, config, seed, selection)
        run.load(Path(folder))
    return run


def _finetune(
    world: World, folder: str, data: SweepData, base: Base, objective: str | Objective, config: FinetuneConfig,
    seed: int, selection: SelectionRule,
) -> None:  # fmt: skip
    run = finetune(data, base, objective, config, seed, selection, world=world)
    if world.is_first:
        run.save(Path(folder))


def seconds_of_rounds(
    workers: int,
    most: int,
    data: SweepData,
    base: Base,
    objective: str | Objective,
    config: FinetuneConfig,
    seed: int,
    selection: SelectionRule,
) -> list[float]:
    """Wall-clock seconds of round 0 and of at most ``most`` rounds after it, by so many workers."""
    if workers == 1:
        return _seconds(Run(data, base, objective, config, seed, selection), most)
    with tempfile.TemporaryDirectory(prefix="selmix-probe-") as folder:
        told = Path(folder) / "seconds.json"
        on_local_ranks(
            _probe, workers, torch.get_num_threads(), str(told), most, data, base, objective, config, seed,
            selection,
        )  # fmt: skip
        seconds: list[float] = json.loads(told.read_text())
    return seconds


def _probe(
    world: World, told: str, most: int, data: SweepData, base: Base, objective: str | Objective,
    config: FinetuneConfig, seed: int, selection: SelectionRule,
) -> None:  # fmt: skip
    seconds = _seconds(Run(data, base, objective, config, seed, selection, world), most)
    if world.is_first:
        Path(told).write_text(json.dumps(seconds))


def _seconds(run: Run, most: int) -> list[float]:
    seconds: list[float] = []
    while not run.finished and len(seconds) <= most:
        started = time.perf_counter()
        run.step()
        seconds.append(time.perf_counter() - started)
    return seconds
