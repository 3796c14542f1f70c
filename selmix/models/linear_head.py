"""A linear classifier over feature vectors: the features are the inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LinearHead(nn.Module):
    """Input (n, ...) flattened to features (n, d), logits (n, K)."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.head = nn.Linear(dim, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.flatten(inputs))
        return logits


def linear_head(input_shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> nn.Module:
    """A linear head over samples of ``input_shape``, with U(+-1/sqrt(d)) weights and zero biases."""
    dim = math.prod(input_shape)
    with torch.device("meta"):
        model = LinearHead(dim, num_classes)
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        model.head.weight.uniform_(-(dim**-0.5), dim**-0.5, generator=generator)
        model.head.bias.zero_()
    return model
