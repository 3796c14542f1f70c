"""A small task for baselines: Gaussians, and a linear model that leans to the large classes."""

from __future__ import annotations

import torch
from torch import Tensor

from selmix.baselines import BaselineTask
from selmix.config import FinetuneConfig
from selmix.data.gaussians import GaussiansConfig
from selmix.data.splits import Split, SweepData
from selmix.metrics import Predictions
from selmix.models import ModelConfig
from selmix.run.run import SelectionRule
from selmix.run.start_model import Base
from selmix.statistics.selection import Constraint, score

WORLD = GaussiansConfig(
    classes=3, dim=4, separation=1.5, largest_class=60, imbalance=10, feedback=20, select=20, test=1
)


def small_data(groups: int = 0) -> SweepData:
    """Three classes of 60, 19 and 6 training samples; with groups, sample by sample in turn."""
    data = WORLD.load()
    if not groups:
        return data
    parts = [
        Split(part.inputs, part.labels, torch.arange(len(part)) % groups)
        for part in (data.train, data.feedback, data.select)
    ]
    return SweepData(
        data.name, data.class_names, *parts, data.digests, tuple(f"group{a}" for a in range(groups))
    )


def small_task(
    groups: int = 0, metric: str = "min_recall", bounds: tuple[Constraint, ...] = (), **config: object
) -> BaselineTask:
    """A task whose base model has class means of unequal length as weights, and no winner."""
    data, (means, _) = small_data(groups), WORLD.world()
    weight = (means * torch.tensor([[3.0], [1.0], [0.5]])).float()
    state = {"head.weight": weight, "head.bias": torch.tensor([1.0, 0.0, -1.0])}
    base = Base(ModelConfig("linear_head"), state, {"weight": weight, "bias": torch.zeros(3)})
    settings = FinetuneConfig(start="given", steps=4, refresh_every=2, **config)  # type: ignore[arg-type]
    return BaselineTask(
        data, base, metric, SelectionRule(metric, constraints=bounds), (1,), settings, (state,)
    )


def score_by_hand(task: BaselineTask, weight: Tensor, bias: Tensor) -> float:
    """Score on select of a linear classifier of the inputs."""
    select = task.data.select
    logits = select.whole() @ weight.T + bias
    return score(task.selection, Predictions.from_logits(select.labels, logits, select.groups), task.context)
