"""ResNet-32 for images of 32 x 32, as long-tailed CIFAR experiments use it.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2 (n = 5, shortcut A).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selmix.models.initial import built_with, checked_image

BLOCKS = 5
WIDTHS = (16, 32, 64)


class _Block(nn.Module):
    """Two 3 x 3 convolutions; the shortcut takes every second pixel and adds channels of zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(inputs)))))
        skipped = inputs[:, :, :: self.stride, :: self.stride]
        # Shortcut A has no parameters: the added channels are zeros, half of them on each side.
        skipped = F.pad(skipped, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return F.relu(skipped + hidden)


class ResNetCifar(nn.Module):
    """Residual network of three stages: input (n, C, H, W), features (n, 64), logits (n, K)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, WIDTHS[0], 3, 1, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()
        )
        # Stages are attributes by name, as mixup_layer names the layer where pairs are mixed.
        self.stage1 = _stage(WIDTHS[0], WIDTHS[0], 1)
        self.stage2 = _stage(WIDTHS[0], WIDTHS[1], 2)
        self.stage3 = _stage(WIDTHS[1], WIDTHS[2], 2)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(WIDTHS[2], num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stage3(self.stage2(self.stage1(self.stem(inputs))))
        logits: Tensor = self.head(self.pool(hidden))
        return logits


def resnet32(input_shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> nn.Module:
    """Build the network for images of at least 4 x 4; 0.46 million parameters.

    Args:
        input_shape: (C, H, W).
        num_classes: K.
        generator: of the weights, on the CPU.
    Raises:
        ValueError: the input is no image, or too small.
    """
    channels = checked_image("resnet32", input_shape, 4)
    return built_with(lambda: ResNetCifar(channels, num_classes), generator)


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        _Block(inputs, outputs, stride), *(_Block(outputs, outputs, 1) for _ in range(BLOCKS - 1))
    )
