"""Optimiser of a run: SGD with separate learning rates for the head and the backbone."""

from __future__ import annotations

from typing import Any

import torch

from selmix.config import FinetuneConfig
from selmix.model import ClassifierView


def sgd(view: ClassifierView, config: FinetuneConfig) -> torch.optim.SGD:
    """Build SGD with the head at ``lr`` and all else at ``lr * backbone_lr_scale``; a scale of 0 freezes the rest.

    Each parameter group holds its factor on the learning rate as ``lr_scale``.
    """
    head = list(view.head.parameters())
    # By identity: `in` would compare the elements of tensors.
    head_ids = {id(parameter) for parameter in head}
    backbone = [p for p in view.model.parameters() if id(p) not in head_ids]
    groups: list[dict[str, Any]] = [{"params": head, "lr_scale": 1.0}]
    # A rate of 0 would freeze it too, but its gradients would still be computed, and exchanged between ranks.
    if config.backbone_lr_scale == 0.0:
        for parameter in backbone:
            parameter.requires_grad_(False)
    elif backbone:
        groups.append({"params": backbone, "lr_scale": config.backbone_lr_scale})
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
