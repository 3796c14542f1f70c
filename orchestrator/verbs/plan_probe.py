"""Probe of a plan: some rounds of a trial at the defaults, in seconds, bytes on disk and memory."""

from __future__ import annotations

import dataclasses
import os
import resource
from dataclasses import dataclass

import torch

from orchestrator.build.base_model import torch_threads
from orchestrator.build.selection import selection_rules
from orchestrator.spec.schema import SweepSpec
from orchestrator.spec.sections import ResourceSection
from selmix.config import FinetuneConfig
from selmix.data.splits import SweepData
from selmix.run.local_ranks import RunRequest, seconds_of_rounds
from selmix.run.start_model import Base

PROBE_ROUNDS = 3
CUDA_CONTEXT_BYTES = 500_000_000
"""Share of a GPU that a process holds beside torch's allocator: context and kernels; 0.3 to 0.5 GB usually."""


@dataclass(frozen=True)
class Memory:
    """Peak of memory of a trial's worker.

    Attributes:
        device: ``cpu`` or ``cuda``. peak_bytes: of the probe. device_bytes: that there are.
        fit: workers that would fit.
    """

    device: str
    peak_bytes: int
    device_bytes: int
    fit: int


@dataclass(frozen=True)
class Probe:
    """What was measured of a trial at the defaults.

    Attributes:
        rounds_measured: beside round 0. rounds: of a whole trial.
        trial_s: seconds of a whole trial. one_worker_trial_s: by one worker.
        pretrain_s: of pre-training the base model.
        weights_bytes: of a model. table_bytes: of a trial's table of rounds.
        memory: of a worker.
    """

    rounds_measured: int
    rounds: int
    trial_s: float
    one_worker_trial_s: float
    pretrain_s: float
    weights_bytes: int
    table_bytes: int
    memory: Memory


def measure(spec: SweepSpec, data: SweepData, config: FinetuneConfig) -> Probe:
    """Run the first rounds of a trial and extrapolate.

    On the GPU where trials take one and this machine has one; otherwise on the CPU.

    Args:
        spec: of the sweep.
        data: of the sweep.
        config: settings of the trial.
    """
    objective = spec.objectives[0]
    device = torch.device("cuda" if spec.resources.gpu and torch.cuda.is_available() else "cpu")
    with torch_threads(spec.resources.cpu):
        model = spec.model.config.build(data.input_shape, data.num_classes)
        base = Base(spec.model.config, model.state_dict(), {})
        # The balanced head would have to be fitted first, and takes a round no longer.
        given = dataclasses.replace(config, start="given")
        rule = selection_rules(spec, data.num_classes)[objective]
        request = RunRequest(data.to(device), base, objective, given, spec.search.seed, rule)
        seconds = seconds_of_rounds(1, PROBE_ROUNDS, request)
        memory = memory_of(device)
        workers = spec.resources.workers
        together = seconds
        if workers > 1:
            together = seconds_of_rounds(workers, PROBE_ROUNDS, request._replace(data=data))
    rounds = _rounds(config)
    a_round = min(seconds[1:], default=seconds[0])
    steps = max(1, len(data.train) // spec.pretrain.batch_size) * spec.pretrain.epochs
    # A step of pre-training is one of fine-tuning on a batch of another size.
    a_step = a_round / config.refresh_every * spec.pretrain.batch_size / config.batch_size
    classes = data.num_classes
    return Probe(
        rounds_measured=len(seconds) - 1,
        rounds=rounds,
        trial_s=together[0] + rounds * min(together[1:], default=together[0]),
        one_worker_trial_s=seconds[0] + rounds * a_round,
        pretrain_s=steps * a_step if spec.recipe else 0.0,
        weights_bytes=sum(t.numel() * t.element_size() for t in model.state_dict().values()),
        table_bytes=rounds * 4 * classes * (3 * classes + 2),
        memory=memory,
    )


def memory_of(device: torch.device) -> Memory:
    """Peak of this process so far.

    On a GPU what torch reserved and :data:`CUDA_CONTEXT_BYTES`; on a CPU the resident set, interpreter and data too,
    as a worker holds them.
    """
    if device.type == "cuda":
        peak = torch.cuda.max_memory_reserved(device) + CUDA_CONTEXT_BYTES
        there = torch.cuda.get_device_properties(device).total_memory
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts it in KiB
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Memory(device.type, peak, there, there // peak)


def memory_warnings(memory: Memory, resources: ResourceSection, concurrent: int) -> list[str]:
    """Warnings where the resources do not go with the memory that a trial was seen to take.

    Args:
        memory: of a worker.
        resources: of a trial.
        concurrent: trials that would run at once.
    """
    peak, there, fit = memory.peak_bytes / 1e9, memory.device_bytes / 1e9, memory.fit
    if memory.device == "cpu":
        workers = concurrent * resources.workers
        if resources.gpu or workers <= fit:
            return []
        return [
            f"memory: {workers} workers at once take about {peak * workers:.1f} GB of {there:.1f}; about {fit} fit: "
            f"set search.max_concurrent_trials to {max(1, fit // resources.workers)}, or use a smaller batch_size"
        ]
    share = min(1.0, resources.gpu)
    if peak > share * there:
        advice = "it does not fit on this GPU: accumulate"
        if fit:
            advice = f"resources.gpu {share_for(fit):g} is enough"
        return [
            f"memory: a trial takes about {peak:.1f} GB, resources.gpu {resources.gpu:g} is {share * there:.1f} of "
            f"{there:.1f} GB; {advice}"
        ]
    if resources.gpu <= 1 and fit > int(1 / resources.gpu + 1e-9):
        return [f"memory: {fit} trials would fit on a GPU: resources.gpu {share_for(fit):g} packs them"]
    return []


def share_for(fit: int) -> float:
    """The share of a GPU by which so many trials lie on one, in hundredths, rounded down."""
    return int(100 / fit) / 100


def _rounds(config: FinetuneConfig) -> int:
    steps, length, rounds = 0, float(config.refresh_every), 0
    while steps < config.steps:
        steps, length, rounds = steps + int(length), length * config.refresh_growth, rounds + 1
    return rounds
