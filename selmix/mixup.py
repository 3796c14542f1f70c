"""Mixup of two batches at the input, at any named submodule, or at the classifier's input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from selmix.model import ClassifierView


def draw_coefficients(count: int, minimum: float, generator: torch.Generator) -> Tensor:
    """Draw mixing coefficients from U[minimum, 1].

    Args:
        count: how many to draw.
        minimum: lower end of the distribution, in [0, 1].
        generator: source of the draws.
    Returns:
        Shape (count,), float32, on the generator's device.
    """
    return minimum + (1.0 - minimum) * torch.rand(count, generator=generator, device=generator.device)


def mix(first: Tensor, second: Tensor, coefficients: Tensor) -> Tensor:
    """Mix two batches row by row, lam x1 + (1 - lam) x2.

    Args:
        first: x1, shape (n, ...).
        second: x2, shape (n, ...).
        coefficients: lam, shape (n,).
    Returns:
        Shape (n, ...), dtype and device of ``first``.
    """
    # One coefficient per row, broadcast over all other dimensions.
    lam = coefficients.to(first).view(-1, *([1] * (first.ndim - 1)))
    return lam * first + (1.0 - lam) * second


def mixed_logits(
    view: ClassifierView, first: Tensor, second: Tensor, coefficients: Tensor, layer: str
) -> Tensor:
    """Compute the logits of samples whose representations are mixed at ``layer``.

    Both halves run through the network up to the layer as one batch; a hook mixes them there, and only the mixed half
    runs through the rest.

    Args:
        view: the model.
        first: inputs x1, shape (n, ...).
        second: inputs x2, shape (n, ...).
        coefficients: lam, shape (n,).
        layer: ``input``, ``features`` (the classifier's input) or the name of a submodule.
    Returns:
        Logits, shape (n, K).
    Raises:
        ValueError: there is no such layer (the message lists all), or its output is not a batch of 2n.
    """
    if layer == "input":
        return view.logits(mix(first, second, coefficients))
    halves = _mix_halves(coefficients, layer)
    # Features are mixed before the head, so that a model need not have a submodule that ends in them.
    if layer == "features":
        handle = view.head.register_forward_pre_hook(lambda _, args: (halves(args[0]), *args[1:]))
    else:
        handle = _submodule(view, layer).register_forward_hook(lambda _module, _args, output: halves(output))
    try:
        return view.logits(torch.cat([first, second]))
    # A hook that is left behind would mix every later forward pass, evaluations too.
    finally:
        handle.remove()


def _mix_halves(coefficients: Tensor, layer: str) -> Callable[[Any], Tensor]:
    count = len(coefficients)

    def halves(output: Any) -> Tensor:
        # A submodule may put out a tuple (as recurrent and attention layers do) or reorder the batch dimension.
        if not isinstance(output, Tensor) or len(output) != 2 * count:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"mixup_layer {layer!r} must put out one tensor with the batch first, got {shape}"
            )
        return mix(output[:count], output[count:], coefficients)

    return halves


def _submodule(view: ClassifierView, layer: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(view.model.named_modules())
    if not layer or layer not in modules:
        raise ValueError(f"mixup_layer {layer!r} is not in the model; there are {', '.join(view.layers())}")
    return modules[layer]
