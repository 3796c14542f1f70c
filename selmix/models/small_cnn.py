"""A convolutional network of about 60,000 parameters with three named stages, for small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTHS = (32, 64, 64)
GRID = 2


class SmallCNN(nn.Module):
    """Three stages of convolution, batch normalisation and ReLU; features on a 2 x 2 grid; a linear head.

    Input (n, C, H, W), features (n, 256), logits (n, K).
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(*_stage(channels, WIDTHS[0]), nn.MaxPool2d(2, ceil_mode=True))
        self.stage2 = nn.Sequential(*_stage(WIDTHS[0], WIDTHS[1]), nn.MaxPool2d(2, ceil_mode=True))
        self.stage3 = _stage(WIDTHS[1], WIDTHS[2])
        # Averaged over the whole map the classes' prototypes would nearly point one way, and a step for one class
        # would lift its logit for all.
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(GRID), nn.Flatten())
        self.head = nn.Linear(WIDTHS[2] * GRID**2, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stage3(self.stage2(self.stage1(inputs)))
        logits: Tensor = self.head(self.pool(hidden))
        return logits


def small_cnn(input_shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> nn.Module:
    """The network for images of ``input_shape`` (C, H, W), at least 2 x 2.

    Raises:
        ValueError: the input is no image.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < 2:
        raise ValueError(
            f"small_cnn takes images (channels, height, width), got samples of shape {input_shape}"
        )
    # Built without weights of its own: construction must not draw from torch's global stream.
    with torch.device("meta"):
        model = SmallCNN(input_shape[0], num_classes)
    model = model.to_empty(device="cpu")
    for module in model.modules():
        initialise_(module, generator)
    return model


def initialise_(module: nn.Module, generator: torch.Generator) -> None:
    """He initialisation for convolutions, U(+-1/sqrt(d)) for linear layers, the identity for normalisation."""
    with torch.no_grad():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            module.weight.uniform_(-bound, bound, generator=generator)
            module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
