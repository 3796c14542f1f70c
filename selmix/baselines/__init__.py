"""Honest baselines: the methods that a careful colleague tries first, on the same splits, labels and seeds."""

from __future__ import annotations

from selmix.baselines.catalogue import BASELINES, Baseline, Rung, baselines_for
from selmix.baselines.last_layer import tuned_head
from selmix.baselines.task import BaselineResult, BaselineTask, joined

__all__ = [
    "BASELINES", "Baseline", "BaselineResult", "BaselineTask", "Rung", "baselines_for", "joined", "tuned_head",
]  # fmt: skip
