"""Convolutional networks with three named stages, for small images: of about 60,000 parameters, and a quicker one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from selmix.models.initial import built_with, checked_image

WIDTHS = (32, 64, 64)
TINY_WIDTHS = (16, 32, 64)
GRID = 2


class SmallCNN(nn.Module):
    """Three stages of convolution, batch normalisation and ReLU; features on a 2 x 2 grid; a linear head.

    Input (n, C, H, W), features (n, 256), logits (n, K).
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        # ``ceil_mode``: an image of 2 x 2 must not be pooled away.
        self.stage1 = nn.Sequential(*_stage(channels, WIDTHS[0]), nn.MaxPool2d(2, ceil_mode=True))
        self.stage2 = nn.Sequential(*_stage(WIDTHS[0], WIDTHS[1]), nn.MaxPool2d(2, ceil_mode=True))
        self.stage3 = _stage(WIDTHS[1], WIDTHS[2])
        # Averaged over the whole map, the prototypes of all classes would point nearly one way, and a step for one
        # class would lift its logit for all.
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(GRID), nn.Flatten())
        self.head = nn.Linear(WIDTHS[2] * GRID**2, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stage3(self.stage2(self.stage1(inputs)))
        logits: Tensor = self.head(self.pool(hidden))
        return logits


def small_cnn(input_shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> nn.Module:
    """Build the network for images of at least 2 x 2.

    Args:
        input_shape: (C, H, W).
        num_classes: K.
        generator: of the weights, on the CPU.
    Raises:
        ValueError: the input is no image, or too small.
    """
    channels = checked_image("small_cnn", input_shape, 2)
    return built_with(lambda: SmallCNN(channels, num_classes), generator)


class TinyCNN(nn.Module):
    """Three stages of a convolution with stride 2, batch normalisation and ReLU; a 2 x 2 grid; a linear head.

    Some 26,000 parameters; a pass costs a tenth of that of :class:`SmallCNN`, which convolves at full size and pools.
    Input (n, C, H, W), features (n, 256), logits (n, K).
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.stage1 = _stage(channels, TINY_WIDTHS[0], 2)
        self.stage2 = _stage(TINY_WIDTHS[0], TINY_WIDTHS[1], 2)
        self.stage3 = _stage(TINY_WIDTHS[1], TINY_WIDTHS[2], 2)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(GRID), nn.Flatten())
        self.head = nn.Linear(TINY_WIDTHS[2] * GRID**2, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.stage3(self.stage2(self.stage1(inputs)))))
        return logits


def tiny_cnn(input_shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> nn.Module:
    """Build the quick network for images of at least 16 x 16, whose last map is 2 x 2; else as :func:`small_cnn`."""
    channels = checked_image("tiny_cnn", input_shape, 16)
    return built_with(lambda: TinyCNN(channels, num_classes), generator)


def _stage(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
