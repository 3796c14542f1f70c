"""Balanced heads of the base model, fitted as a worker fits them: with a trial's threads and on its device."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from selmix.baselines.last_layer import start_heads
from selmix.models import ModelConfig
from selmix.weights import State
from trainables.shared import Shared, keep_to_share


@dataclass(frozen=True)
class HeadJob:
    """Task of a worker: the heads that runs of some objectives start from.

    Attributes:
        model: configuration of the network.
        state: weights of the base model.
        objectives: of the sweep; their heads differ by the rule that tunes the weight decay only.
    """

    model: ModelConfig
    state: State
    objectives: Sequence[str]


@dataclass(frozen=True)
class FittedHeads:
    """Heads of a job.

    Attributes:
        heads: objective -> ``weight`` (K, d) and ``bias`` (K,), float32 on the CPU.
        cost_s: seconds of work.
    """

    heads: Mapping[str, State]
    cost_s: float


def fit_heads(shared: Shared, job: HeadJob, gpu: float) -> FittedHeads:
    """Fit the heads of a job.

    Args:
        shared: of the sweep; its start models, which these heads belong to, are not read.
        job: the base model, and whose heads.
        gpu: GPUs of this worker, or its share of one.
    """
    # One and two threads give different bits: as many as a trial has.
    torch.set_num_threads(shared.threads)
    keep_to_share(gpu)
    started = time.perf_counter()
    rules = {objective: shared.rules[objective] for objective in job.objectives}
    heads = start_heads(
        job.model, job.state, shared.on_device(), rules, shared.features_of(job.model, job.state)
    )
    return FittedHeads(heads, time.perf_counter() - started)
