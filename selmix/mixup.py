"""Mixing two batches at the input, at any named submodule, or at what the classifier sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from selmix.model import ClassifierView


def draw_coefficients(count: int, minimum: float, generator: torch.Generator) -> Tensor:
    """Mixing coefficients from U[minimum, 1], shape (count,), float32, on the generator's device."""
    return minimum + (1.0 - minimum) * torch.rand(count, generator=generator, device=generator.device)


def mix(first: Tensor, second: Tensor, coefficients: Tensor) -> Tensor:
    """lam x1 + (1 - lam) x2, row by row.

    Args:
        first, second: shape (n, ...). coefficients: lam, shape (n,).
    Returns:
        Shape (n, ...), dtype and device of ``first``.
    """
    lam = coefficients.to(first).view(-1, *([1] * (first.ndim - 1)))
    return lam * first + (1.0 - lam) * second


def mixed_logits(
    view: ClassifierView, first: Tensor, second: Tensor, coefficients: Tensor, layer: str
) -> Tensor:
    """Logits of samples whose representations are mixed at ``layer``.

    Both halves run through the network below the layer as one batch; a hook mixes them there, and the mixed half
    runs on alone.

    Args:
        first, second: inputs, shape (n, ...). coefficients: lam, shape (n,).
        layer: ``input``, ``features`` (what the classifier sees) or the name of a submodule.
    Returns:
        Logits, shape (n, K).
    Raises:
        ValueError: no such layer (the message lists those there are), or its output is not a batch of 2n.
    """
    if layer == "input":
        return view.logits(mix(first, second, coefficients))
    halves = _mix_halves(coefficients, layer)
    if layer == "features":
        handle = view.head.register_forward_pre_hook(lambda _, args: (halves(args[0]), *args[1:]))
    else:
        handle = _submodule(view, layer).register_forward_hook(lambda _module, _args, output: halves(output))
    try:
        return view.logits(torch.cat([first, second]))
    finally:
        handle.remove()


def _mix_halves(coefficients: Tensor, layer: str) -> Callable[[Any], Tensor]:
    count = len(coefficients)

    def halves(output: Any) -> Tensor:
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
