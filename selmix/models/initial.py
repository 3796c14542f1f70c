"""Initial weights from a generator of their own: construction never draws from torch's global stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def built_with(make: Callable[[], M], generator: torch.Generator) -> M:
    """Build a module on the CPU whose weights are drawn from ``generator``.

    Buffers that :func:`initialise_` does not set are left to the caller.
    """
    # On the meta device construction draws no random numbers.
    with torch.device("meta"):
        model = make()
    for module in model.modules():
        # `to_empty` would bring in sympy by way of `empty_like`: half a second, a third of importing torch.
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype)))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
        initialise_(module, generator)
    return model


def initialise_(module: nn.Module, generator: torch.Generator) -> None:
    """Initialise a layer: He for convolutions, U(+-1/sqrt(d)) for linear layers, the identity for normalisation."""
    with torch.no_grad():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            module.weight.uniform_(-bound, bound, generator=generator)
            module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


def checked_image(model: str, input_shape: tuple[int, ...], min_side: int) -> int:
    """Channels of images that a model can take.

    Args:
        model: its name, for the message.
        input_shape: of one sample, without the batch.
        min_side: smallest height and width that the model can take.
    Raises:
        ValueError: the input is no image, or smaller than ``min_side`` on a side.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < min_side:
        raise ValueError(
            f"{model} takes images (channels, height, width) of {min_side} x {min_side} or more, got samples of shape "
            f"{input_shape}"
        )
    return input_shape[0]
