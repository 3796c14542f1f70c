"""The optimiser of a run: SGD with a rate of its own for the head."""

from __future__ import annotations

from typing import Any

import torch

from selmix.config import FinetuneConfig
from selmix.model import ClassifierView


def sgd(view: ClassifierView, config: FinetuneConfig) -> torch.optim.SGD:
    """SGD with the head at ``lr`` and all else at ``lr * backbone_lr_scale`` (0: frozen)."""
    head = list(view.head.parameters())
    held = {id(parameter) for parameter in head}
    backbone = [p for p in view.model.parameters() if id(p) not in held]
    groups: list[dict[str, Any]] = [{"params": head, "lr_scale": 1.0}]
    if config.backbone_lr_scale == 0.0:
        for parameter in backbone:
            parameter.requires_grad_(False)
    elif backbone:
        groups.append({"params": backbone, "lr_scale": config.backbone_lr_scale})
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
