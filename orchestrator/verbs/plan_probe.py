"""Some rounds of a trial at the defaults: what one takes in seconds, in bytes on disk and in memory."""

from __future__ import annotations

import dataclasses
import os
import resource
from typing import Any

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
"""What a process holds of a GPU beside torch's allocator: context and kernels; 0.3 to 0.5 GB on the usual ones."""


def measure(spec: SweepSpec, data: SweepData, config: FinetuneConfig) -> dict[str, Any]:
    """Seconds of a trial at the defaults, told from its first rounds, its peak of memory, and what it leaves on disk.

    On the GPU where trials take one and this machine has one; otherwise on the CPU.
    """
    objective = spec.objectives[0]
    device = torch.device("cuda" if spec.resources.gpu and torch.cuda.is_available() else "cpu")
    with torch_threads(spec.resources.cpu):
        model = spec.model.config.build(data.input_shape, data.num_classes)
        base = Base(spec.model.config, model.state_dict(), {})
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
    classes, steps = (
        data.num_classes,
        max(1, len(data.train) // spec.pretrain.batch_size) * spec.pretrain.epochs,
    )
    return {
        "rounds_measured": len(seconds) - 1,
        "rounds": rounds,
        "trial_s": together[0] + rounds * min(together[1:], default=together[0]),
        "one_worker_trial_s": seconds[0] + rounds * a_round,
        # A step of pre-training is one of fine-tuning on a smaller batch.
        "pretrain_s": steps * a_round / config.refresh_every * spec.pretrain.batch_size / config.batch_size
        if spec.recipe
        else 0.0,
        "weights_bytes": sum(t.numel() * t.element_size() for t in model.state_dict().values()),
        "table_bytes": rounds * 4 * classes * (3 * classes + 2),
        "memory": memory,
    }


def memory_of(device: torch.device) -> dict[str, Any]:
    """The peak of this process so far: ``device``, ``peak_bytes``, ``device_bytes`` there are, and how many ``fit``.

    On a GPU what torch reserved and :data:`CUDA_CONTEXT_BYTES`; on a CPU the resident set, interpreter and data too,
    as a worker holds them.
    """
    if device.type == "cuda":
        peak = torch.cuda.max_memory_reserved(device) + CUDA_CONTEXT_BYTES
        there = torch.cuda.get_device_properties(device).total_memory
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts it in KiB
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"device": device.type, "peak_bytes": peak, "device_bytes": there, "fit": there // peak}


def memory_warnings(memory: dict[str, Any], resources: ResourceSection, at_once: int) -> list[str]:
    """What of the resources asked for does not go with the memory that a trial was seen to take."""
    peak, there, fit = memory["peak_bytes"] / 1e9, memory["device_bytes"] / 1e9, memory["fit"]
    if memory["device"] == "cpu":
        workers = at_once * resources.workers
        if resources.gpu or workers <= fit:
            return []
        return [
            f"memory: {workers} workers at once take about {peak * workers:.1f} GB of {there:.1f}; about {fit} fit: "
            f"set search.max_concurrent_trials to {max(1, fit // resources.workers)}, or use a smaller batch_size"
        ]
    share = min(1.0, resources.gpu)
    if peak > share * there:
        fits = (
            f"resources.gpu {share_for(fit):g} is enough"
            if fit
            else "it does not fit on this GPU: accumulate"
        )
        return [
            f"memory: a trial takes about {peak:.1f} GB, resources.gpu {resources.gpu:g} is {share * there:.1f} of "
            f"{there:.1f} GB; {fits}"
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
