"""Honest baselines: the methods that a careful colleague tries first, on the same splits, labels and seeds."""

from __future__ import annotations

from selmix.baselines.catalogue import BASELINES, Baseline, baselines_for
from selmix.baselines.cross_fitting import CrossFitted, cross_fitted
from selmix.baselines.last_layer import tuned_head
from selmix.baselines.task import BaselineResult, BaselineTask, HeldOut, joined

__all__ = [
    "BASELINES", "Baseline", "BaselineResult", "BaselineTask", "CrossFitted", "HeldOut", "baselines_for",
    "cross_fitted", "joined", "tuned_head",
]  # fmt: skip
