"""What workers read, of a small world: three Gaussians, and a linear model that leans to the large classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from selmix.statistics.selection import Constraint
from tests.selmix.baselines.tasks import small_task
from trainables.shared import Shared

CONFIG = {"start": "given", "steps": 4, "refresh_every": 2, "batch_size": 16}
"""Settings of a run of three reports: the start model, and two rounds."""


def shared(*constraints: Constraint, **changed: Any) -> Shared:
    task = small_task()
    rule = replace(task.selection, constraints=constraints)
    made = Shared(task.data, {"min_recall": task.base}, {"min_recall": rule}, threads=1, gpu=0)
    return replace(made, **changed)


def assignment(seed: int = 0, **changed: Any) -> dict[str, Any]:
    return {"trial_id": "t", "objective": "min_recall", "seed": seed, "config": CONFIG} | changed
