"""A task on frozen features: what changes logits or a head alone does not need the backbone again and again."""

from __future__ import annotations

from dataclasses import replace

from selmix.baselines.task import BaselineTask
from selmix.data.splits import Split, SweepData
from selmix.model import ClassifierView, head_state, predict
from selmix.models import ModelConfig
from selmix.run.start_model import Base


def frozen(task: BaselineTask) -> BaselineTask:
    """The same task with the base model's features as inputs and its classifier as the whole model.

    A baseline of the rungs ``scores`` and ``head`` gives the same logits on both, up to rounding. The winner, which is
    no linear model of these features, is left out.
    """
    data, base = frozen_features(task.data, task.base, task.view(task.base.state))
    return replace(task, data=data, base=base, winner_states=())


def frozen_features(data: SweepData, base: Base, view: ClassifierView) -> tuple[SweepData, Base]:
    """Data of a model's features, and a base model that is its classifier alone.

    Args:
        data: splits; unlabelled samples are left out.
        base: whose ``head``, for ``start: balanced_head``, is kept.
        view: of the base model with its weights, on the device of the data.
    Returns:
        Splits whose inputs have the shape (n, d), float32, and a base of the model ``linear_head``.
    """

    def features(split: Split) -> Split:
        return Split(predict(view, split.inputs)[0].float(), split.labels, split.groups)

    flat = replace(
        data, train=features(data.train), feedback=features(data.feedback), select=features(data.select),
        unlabelled=None,
    )  # fmt: skip
    head = {f"head.{name}": tensor.float().cpu() for name, tensor in head_state(view).items()}
    # Of features there is nothing more to keep.
    return flat, replace(base, model=ModelConfig("linear_head"), state=head, cache=None)
