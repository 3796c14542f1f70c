"""What every trial of a sweep reads from the object store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from selmix.base import Base
from selmix.data.splits import SweepData
from selmix.selection import SelectionRule

CHECKPOINT_EVERY_S = 10.0


@dataclass(frozen=True)
class Shared:
    """What every trial of a sweep reads from the object store.

    Attributes:
        data: train, feedback and select, on the CPU; never the test split.
        bases: objective -> the start models. rules: objective -> how its rounds are ranked.
        threads: torch threads of a trial's worker; one and two give different bits.
        gpu: whether trials run on the first GPU they see.
        filesystem: pyarrow's, where checkpoints and baselines lie; None: this machine's.
        checkpoint_every_s: least time between two checkpoints of a trial that goes on.
    """

    data: SweepData
    bases: Mapping[str, Base]
    rules: Mapping[str, SelectionRule]
    threads: int
    gpu: bool
    filesystem: Any = None
    checkpoint_every_s: float = CHECKPOINT_EVERY_S

    def on_device(self) -> SweepData:
        """The data where trials run."""
        return self.data.to(torch.device("cuda" if self.gpu else "cpu"))
