"""WRN-28-2: the wide residual network of the paper's experiments on images of 32 x 32.

Source: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selmix.models.initial import built_with, checked_image

DEPTH, WIDTH = 28, 2
# Of the leaky ReLU, as is usual where this network is trained semi-supervised.
SLOPE = 0.1


class _Block(nn.Module):
    """Normalise, activate and convolve twice, and add the input, by a 1 x 1 convolution where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.same = same

    def forward(self, inputs: Tensor) -> Tensor:
        active = F.leaky_relu(self.norm1(inputs), SLOPE)
        hidden: Tensor = self.conv2(F.leaky_relu(self.norm2(self.conv1(active)), SLOPE))
        # A convolution takes the activated input, as the block's first one does; the identity takes it as it is.
        skipped: Tensor = self.shortcut(inputs if self.same else active)
        return hidden + skipped


class WideResNet(nn.Module):
    """Wide residual network of three groups: input (n, C, H, W), features (n, 128), logits (n, K)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        # Three groups of blocks of two convolutions, and four layers outside of the blocks.
        blocks = (DEPTH - 4) // 6
        widths = [16, 16 * WIDTH, 32 * WIDTH, 64 * WIDTH]
        self.stem = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        groups = []
        for index in range(3):
            first = _Block(widths[index], widths[index + 1], 1 if index == 0 else 2)
            rest = [_Block(widths[index + 1], widths[index + 1], 1) for _ in range(blocks - 1)]
            groups.append(nn.Sequential(first, *rest))
        self.group1, self.group2, self.group3 = groups
        self.norm = nn.BatchNorm2d(widths[-1])
        self.pool = nn.Sequential(nn.LeakyReLU(SLOPE), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.group3(self.group2(self.group1(self.stem(inputs))))
        logits: Tensor = self.head(self.pool(self.norm(hidden)))
        return logits


def wrn_28_2(input_shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> nn.Module:
    """Build the network for images of at least 4 x 4; 1.5 million parameters.

    Args:
        input_shape: (C, H, W).
        num_classes: K.
        generator: of the weights, on the CPU.
    Raises:
        ValueError: the input is no image, or too small.
    """
    channels = checked_image("wrn_28_2", input_shape, 4)
    return built_with(lambda: WideResNet(channels, num_classes), generator)
