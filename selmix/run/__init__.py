"""One trial from its start model to its chosen round, without Ray."""

from __future__ import annotations

from selmix.run.run import BestRound, RoundReport, Run, finetune
from selmix.statistics.selection import Constraint, SelectionRule

__all__ = ["BestRound", "Constraint", "RoundReport", "Run", "SelectionRule", "finetune"]
