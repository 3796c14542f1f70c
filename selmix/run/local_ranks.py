"""A run on several processes of this machine, on CPUs, without Ray, as ``reproduce`` and ``plan`` need it."""

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
    """Arguments of a run, in the order of :class:`selmix.run.run.Run`.

    Attributes:
        data: train, feedback and select.
        base: the start models.
        objective: a name of OBJECTIVES or a callable.
        config: the settings.
        seed: of all randomness of the run.
        selection: how rounds are ranked, and the constraints.
    """

    data: SweepData
    base: Base
    objective: AnyObjective
    config: FinetuneConfig
    seed: int
    selection: SelectionRule


def finetune_on_workers(workers: int, request: RunRequest) -> Run:
    """Step a run to its end on ``workers`` processes, each with the torch threads that are set here.

    Bits depend on the number of workers: on one stack the same number gives the same bits.
    """
    if workers == 1:
        return finetune(*request)
    # A spawned process returns nothing: the finished run comes back as the checkpoint that rank 0 writes.
    with tempfile.TemporaryDirectory(prefix="selmix-run-") as folder:
        on_local_ranks(_finetune, workers, torch.get_num_threads(), folder, request)
        run = Run(*request)
        run.load(Path(folder))
    return run


def _finetune(world: World, folder: str, request: RunRequest) -> None:
    run = finetune(*request, world=world)
    # Only rank 0 holds the weights of the best round.
    if world.is_first:
        run.save(Path(folder))


def seconds_of_rounds(workers: int, max_rounds: int, request: RunRequest) -> list[float]:
    """Measure the wall-clock seconds of the first rounds of a run.

    Args:
        workers: processes that step it together; with 1 it is this process.
        max_rounds: rounds to measure after round 0; fewer where the run ends before.
        request: arguments of the run.
    Returns:
        Seconds of round 0 and of the rounds after it.
    """
    if workers == 1:
        return _seconds(Run(*request), max_rounds)
    with tempfile.TemporaryDirectory(prefix="selmix-probe-") as folder:
        report = Path(folder) / "seconds.json"
        on_local_ranks(_probe, workers, torch.get_num_threads(), str(report), max_rounds, request)
        seconds: list[float] = json.loads(report.read_text())
    return seconds


def _probe(world: World, report: str, max_rounds: int, request: RunRequest) -> None:
    seconds = _seconds(Run(*request, world=world), max_rounds)
    # Every round ends with exchanges between the ranks, so the clock of one of them is enough.
    if world.is_first:
        Path(report).write_text(json.dumps(seconds))


def _seconds(run: Run, max_rounds: int) -> list[float]:
    seconds: list[float] = []
    # <= and not <: round 0, the evaluation of the start model, is measured beside them.
    while not run.finished and len(seconds) <= max_rounds:
        started = time.perf_counter()
        run.step()
        seconds.append(time.perf_counter() - started)
    return seconds
