"""Honest baselines: what a careful colleague would have tried first, on the same splits, labels and seeds."""

from __future__ import annotations

from selmix.baselines.catalogue import BASELINES, NEVER_OPPONENT, baselines_for
from selmix.baselines.last_layer import tuned_head
from selmix.baselines.task import BaselineResult, BaselineTask

__all__ = ["BASELINES", "NEVER_OPPONENT", "BaselineResult", "BaselineTask", "baselines_for", "tuned_head"]
