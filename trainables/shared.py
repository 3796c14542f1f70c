"""What every trial of a sweep reads from the object store."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from selmix.data.splits import SweepData
from selmix.run.start_model import Base
from selmix.statistics.selection import SelectionRule
from trainables.staged import StagedData

CHECKPOINT_EVERY_S = 10.0
FAKE_GPUS = "SELMIX_FAKE_GPUS"
"""Set to 1 on nodes whose GPUs are only counted (``ray start --num-gpus`` without a GPU): trials run on their CPUs."""


@dataclass(frozen=True)
class Shared:
    """What every trial of a sweep reads from the object store.

    Attributes:
        data: train, feedback and select, on the CPU, or the file where they are staged; never the test split.
        bases: objective -> the start models. rules: objective -> how its rounds are ranked.
        threads: torch threads of a trial's worker; one and two give different bits.
        gpu: of a worker; 0: on the CPU. Others run on the first GPU they see, a share below 1 keeps to its memory.
        filesystem: pyarrow's, where checkpoints and baselines lie; None: this machine's.
        checkpoint_every_s: least time between two checkpoints of a trial that goes on.
    """

    data: SweepData | StagedData
    bases: Mapping[str, Base]
    rules: Mapping[str, SelectionRule]
    threads: int
    gpu: float
    filesystem: Any = None
    checkpoint_every_s: float = CHECKPOINT_EVERY_S

    def on_device(self) -> SweepData:
        """The data where trials run.

        Raises:
            RuntimeError: staged data that arrived differ from those that were staged.
        """
        data = self.data.opened(self.filesystem) if isinstance(self.data, StagedData) else self.data
        return data.to(device_of(self.gpu))


def device_of(gpu: float) -> torch.device:
    """Where a worker trains that was given ``gpu`` of a GPU.

    Raises:
        RuntimeError: torch sees none; a run must not fall back to the CPU in silence.
    """
    if not gpu:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get(FAKE_GPUS) == "1":
        return torch.device("cpu")
    raise RuntimeError(
        f"torch must see the GPU that Ray gave this worker, got none on {platform.node()}; check the driver and the "
        f"CUDA build of torch there, or set {FAKE_GPUS}=1 on its nodes to rehearse on CPUs"
    )


def keep_to_share(gpu: float) -> None:
    """Let this process take its share of the GPU's memory and no more: it runs out alone, and not its neighbours.

    The CUDA context, some 0.4 GB, is beside that: torch limits what its own allocator takes.
    """
    if device_of(gpu).type == "cuda":
        torch.cuda.set_per_process_memory_fraction(min(1.0, gpu))
