"""Values that every trial of a sweep reads from the object store."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from selmix.data.feature_cache import FeatureCache
from selmix.data.splits import SweepData
from selmix.models import ModelConfig
from selmix.run.start_model import Base
from selmix.statistics.selection import SelectionRule
from selmix.user_code import is_reference
from selmix.weights import State, state_digest
from trainables.failures import NoGpu
from trainables.staged import StagedData, session_folder

J = TypeVar("J")
T = TypeVar("T")

CHECKPOINT_EVERY_S = 10.0
FAKE_GPUS = "SELMIX_FAKE_GPUS"
"""Set to 1 on nodes whose GPUs are only counted (``ray start --num-gpus`` without a GPU): trials run on their CPUs."""


@dataclass(frozen=True)
class Shared:
    """Values that every trial of a sweep reads from the object store.

    Attributes:
        data: train, feedback and select, on the CPU, or the file where they are staged; never the test split.
        bases: objective -> the start models.
        rules: objective -> the rule that ranks its rounds.
        threads: torch threads of a trial's worker; one and two give different bits.
        gpu: of a worker; with 0 it runs on the CPU, otherwise on the first GPU that it sees, and a share below 1 keeps
            to its memory.
        filesystem: pyarrow's, of checkpoints and baselines; None for that of this machine.
        launch: random id of this launch.
        features: folder of this machine for the features of the base model; empty for that of a node's Ray session.
        checkpoint_every_s: minimum time between two checkpoints of a trial that has not finished.
    """

    data: SweepData | StagedData
    bases: Mapping[str, Base]
    rules: Mapping[str, SelectionRule]
    threads: int
    gpu: float
    filesystem: Any = None
    features: str = ""
    launch: str = field(default_factory=lambda: secrets.token_hex(8))
    checkpoint_every_s: float = CHECKPOINT_EVERY_S

    def features_of(self, model: ModelConfig, state: State) -> FeatureCache | None:
        """Cache of the features of a model that nobody trains, on this machine; None where they are the inputs.

        Args:
            model: configuration of the network.
            state: its weights.
        """
        if model.name == "linear_head":
            return None
        folder = Path(self.features) if self.features else session_folder() / "selmix-features"
        # A function of the user's own may be another by the next launch.
        network = f"{model.name} {self.launch}" if is_reference(model.name) else model.name
        return FeatureCache(folder, state_digest(state), f"{network} {model.head}")

    def base_with_features(self, objective: str) -> Base:
        """Start models of an objective, with the cache of their features."""
        base = self.bases[objective]
        return replace(base, cache=self.features_of(base.model, base.state))

    def on_device(self) -> SweepData:
        """Load the data onto the device of the trials.

        Raises:
            RuntimeError: a copy of staged data differs from the data that were staged.
        """
        data = self.data.opened(self.filesystem) if isinstance(self.data, StagedData) else self.data
        return data.to(device_of(self.gpu))


Work = Callable[[Shared, J, float], T]
"""Function of what all share, of a piece of work, and of the GPUs of its worker or its share of one."""


def device_of(gpu: float) -> torch.device:
    """Device of a worker that has ``gpu`` of a GPU.

    Raises:
        NoGpu: torch sees no GPU; a run must not fall back to the CPU in silence.
    """
    if not gpu:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    # After CUDA: the variable must not keep a real GPU idle.
    if os.environ.get(FAKE_GPUS) == "1":
        return torch.device("cpu")
    raise NoGpu(
        f"torch must see the GPU that Ray gave this worker, got none on {platform.node()}; check the driver and the "
        f"CUDA build of torch there, or set {FAKE_GPUS}=1 on its nodes to rehearse on CPUs"
    )


def keep_to_share(gpu: float) -> None:
    """Limit this process to its share of the GPU's memory, so that others on that GPU do not run out with it.

    The CUDA context, some 0.4 GB, comes on top: torch limits its own allocator only.
    """
    # A worker may have several GPUs, but a fraction of one cannot exceed 1.
    if device_of(gpu).type == "cuda":
        torch.cuda.set_per_process_memory_fraction(min(1.0, gpu))
