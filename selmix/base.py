"""The model that every trial starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selmix.model import ClassifierView
from selmix.models import build_model
from selmix.weights import load_checkpoint_into


@dataclass(frozen=True)
class Base:
    """The model that every trial starts from.

    Attributes:
        model_name: of MODELS. state: weights of the base model.
        head: ``weight`` (K, d) and ``bias`` (K,) of ``last_layer_on_train_plus_feedback``, for
            ``start: balanced_head``.
        labels: labelled splits that made the base model; what made a user's checkpoint is not known.
    """

    model_name: str
    state: Mapping[str, Tensor]
    head: Mapping[str, Tensor]
    labels: tuple[str, ...] = ("train",)

    def build(self, start: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """The start model of a run, on the CPU."""
        model = build_model(self.model_name, input_shape, num_classes, torch.Generator().manual_seed(0))
        load_checkpoint_into(model, self.state)
        if start == "balanced_head":
            head = ClassifierView(model).head
            with torch.no_grad():
                head.weight.copy_(self.head["weight"])
                head.bias.copy_(self.head["bias"])
        return model
