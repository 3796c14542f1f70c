"""The model that every trial starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from selmix.models import ModelConfig
from selmix.pretrain import PretrainSettings
from selmix.weights import load_checkpoint_into


@dataclass(frozen=True)
class Base:
    """The model that every trial starts from.

    Attributes:
        model: which one. state: weights of the base model.
        head: ``weight`` (K, d) and ``bias`` (K,) of ``last_layer_on_train_plus_feedback``, for
            ``start: balanced_head``.
        settings: of the pre-training, for what is trained from scratch beside it.
        initial: weights that it began with; None: random ones.
        labels: labelled splits that made the base model; what made a user's checkpoint is not known.
    """

    model: ModelConfig
    state: Mapping[str, Tensor]
    head: Mapping[str, Tensor]
    labels: tuple[str, ...] = ("train",)
    settings: PretrainSettings = field(default_factory=PretrainSettings)
    initial: Mapping[str, Tensor] | None = None

    def build(self, start: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """The start model of a run, on the CPU."""
        model = self.model.build(input_shape, num_classes)
        load_checkpoint_into(model, self.state)
        if start == "balanced_head":
            head = self.model.view(model).head
            with torch.no_grad():
                head.weight.copy_(self.head["weight"])
                head.bias.copy_(self.head["bias"])
        return model
