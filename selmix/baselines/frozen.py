"""A task on frozen features: what changes logits or a head alone does not need the backbone again and again."""

from __future__ import annotations

from dataclasses import replace

from selmix.baselines.task import BaselineTask
from selmix.data.splits import Split
from selmix.model import head_state, predict
from selmix.models import ModelConfig


def frozen(task: BaselineTask) -> BaselineTask:
    """The same task with the base model's features as inputs and its classifier as the whole model.

    A baseline of the rungs ``scores`` and ``head`` gives the same logits on both, up to rounding. The winner, which is
    no linear model of these features, is left out.
    """
    view = task.view(task.base.state)

    def features(split: Split) -> Split:
        return Split(predict(view, split.inputs)[0].float(), split.labels, split.groups)

    data = replace(
        task.data,
        train=features(task.data.train),
        feedback=features(task.data.feedback),
        select=features(task.data.select),
        unlabelled=None,
    )
    head = {f"head.{name}": tensor.float().cpu() for name, tensor in head_state(view).items()}
    base = replace(task.base, model=ModelConfig("linear_head"), state=head)
    return replace(task, data=data, base=base, winner_states=())
