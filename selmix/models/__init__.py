"""The models of the product, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from selmix.models.linear_head import linear_head, standardised_head
from selmix.models.small_cnn import small_cnn

Builder = Callable[[tuple[int, ...], int, torch.Generator], nn.Module]

MODELS: dict[str, Builder] = {
    "small_cnn": small_cnn,
    "linear_head": linear_head,
    "standardised_head": standardised_head,
}


def build_model(
    name: str, input_shape: tuple[int, ...], num_classes: int, generator: torch.Generator
) -> nn.Module:
    """A model with weights drawn from ``generator``.

    Args:
        input_shape: of one sample, without the batch.
    Raises:
        ValueError: no such model, or it cannot take this input.
    """
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    return MODELS[name](input_shape, num_classes, generator)
