"""Start model of a trial: the base model, with its own classifier or the class-balanced one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from selmix.data.feature_cache import FeatureCache
from selmix.models import ModelConfig
from selmix.pretrain import PretrainSettings
from selmix.weights import load_checkpoint_into


@dataclass(frozen=True)
class Base:
    """Base model that every trial of a sweep starts from.

    Attributes:
        model: configuration of the network.
        state: weights of the base model.
        head: ``weight`` (K, d) and ``bias`` (K,) of ``last_layer_on_train_plus_feedback``, for
            ``start: balanced_head``.
        labels: labelled splits that made the base model; what made a user's checkpoint is not known.
        settings: of the pre-training, for a baseline that is trained from scratch.
        initial: weights that the pre-training began with; None for random ones.
        best_head: ``weight`` and ``bias`` for ``start: best_head``; None where no rung below has handed one up.
        cache: of the features of the base model; None computes them wherever they are read.
    """

    model: ModelConfig
    state: Mapping[str, Tensor]
    head: Mapping[str, Tensor]
    labels: tuple[str, ...] = ("train",)
    settings: PretrainSettings = field(default_factory=PretrainSettings)
    initial: Mapping[str, Tensor] | None = None
    best_head: Mapping[str, Tensor] | None = None
    cache: FeatureCache | None = None

    def build(self, start: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Build the start model of a run, on the CPU.

        Args:
            start: ``given`` (the base model), ``balanced_head`` (its classifier replaced by ``head``) or ``best_head``
                (by that one).
            input_shape: of one sample, without the batch dimension.
            num_classes: K.
        Raises:
            ValueError: the weights do not fit the model, or there is no such head.
        """
        # A new module each time: a run trains its model in place, and all trials start from this base.
        model = self.model.build(input_shape, num_classes)
        load_checkpoint_into(model, self.state)
        if start == "best_head" and self.best_head is None:
            raise ValueError(
                "start: best_head needs the best head of the rung head, which a sweep hands up; got none; use "
                "balanced_head or given, or give Base one"
            )
        replacement = {"balanced_head": self.head, "best_head": self.best_head}.get(start)
        if replacement is not None:
            head = self.model.view(model).head
            # autograd refuses changes in place to a parameter that requires gradients.
            with torch.no_grad():
                head.weight.copy_(replacement["weight"])
                head.bias.copy_(replacement["bias"])
        return model
