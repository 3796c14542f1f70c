"""Linear classifiers over feature vectors: the features are the inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from selmix.models.initial import built_with


class LinearHead(nn.Module):
    """Linear classifier: input (n, ...), flattened to features (n, d), to logits (n, K)."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.head = nn.Linear(dim, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.flatten(inputs))
        return logits


def linear_head(input_shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> nn.Module:
    """Build a linear head with U(+-1/sqrt(d)) weights and zero biases.

    Args:
        input_shape: of one sample, without the batch.
        num_classes: K.
        generator: of the weights, on the CPU.
    """
    return built_with(lambda: LinearHead(math.prod(input_shape), num_classes), generator)


class StandardisedHead(nn.Module):
    """Linear classifier over features that are first brought to mean 0 and deviation 1, by buffers of its own.

    Input (n, ...) flattened to (n, d), logits (n, K). Learning rates then mean the same for every source of features.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.head = nn.Linear(dim, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head((self.flatten(inputs) - self.mean) / self.scale)
        return logits

    def fit_scale(self, inputs: Tensor) -> None:
        """Take mean and deviation from training inputs; a feature that never varies keeps the scale 1."""
        flat = inputs.flatten(1).double()
        scale = flat.std(dim=0, unbiased=False)
        # Relative to the largest: rounding can leave a constant feature with a tiny deviation.
        self.mean.copy_(flat.mean(dim=0))
        self.scale.copy_(torch.where(scale > 1e-8 * scale.max().clamp_min(1e-8), scale, 1.0))


def standardised_head(
    input_shape: tuple[int, ...], num_classes: int, generator: torch.Generator
) -> nn.Module:
    """Build a :class:`StandardisedHead` with U(+-1/sqrt(d)) weights and zero biases, and a scale of 1 until fitted.

    Args:
        input_shape: of one sample, without the batch.
        num_classes: K.
        generator: of the weights, on the CPU.
    """
    model = built_with(lambda: StandardisedHead(math.prod(input_shape), num_classes), generator)
    # built_with leaves the buffers empty.
    model.mean.zero_()
    model.scale.fill_(1.0)
    return model
