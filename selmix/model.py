"""A classifier seen as a backbone and a linear head, for any module that ends in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from selmix.data.images import Inputs, batches
from selmix.precision import Arithmetic


class ClassifierView:
    """Finds the classifier of a module: the ``nn.Linear`` that is named, or its last one.

    Args:
        head: name of the classifier in the module; None: the last ``nn.Linear``.
    Attributes:
        model: the module. head: its classifier. head_name: the classifier's name in it.
        arithmetic: how its forward pass is computed; see :meth:`compute_in_`.
        network: what a forward pass calls: the module, or what exchanges its gradients with other ranks.
    Raises:
        ValueError: the module has no ``nn.Linear``, none of that name, or one without a bias.
    """

    def __init__(self, model: nn.Module, head: str | None = None) -> None:
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        if not linear:
            raise ValueError(f"{type(model).__name__} must have an nn.Linear as its classifier, got none")
        if head is not None and head not in linear:
            known = ", ".join(linear)
            raise ValueError(f"model.head must name an nn.Linear of the model, one of {known}; got {head!r}")
        self.model = model
        self.head_name = head if head is not None else list(linear)[-1]
        self.head = linear[self.head_name]
        if self.head.bias is None:
            raise ValueError(f"the classifier {self.head_name!r} must have a bias; build it with bias=True")
        self.arithmetic = Arithmetic()
        self.network: Callable[[Tensor], Tensor] = model

    def compute_in_(self, arithmetic: Arithmetic) -> None:
        """Compute every forward pass through this view so from now on."""
        arithmetic.lay_out_(self.model)
        self.arithmetic = arithmetic

    def logits(self, inputs: Tensor) -> Tensor:
        """Logits of a batch, shape (n, K); float32 where the forward pass is in less."""
        with self.arithmetic.autocast(inputs.device):
            logits = self.network(self.arithmetic.laid_out(inputs))
        return self.arithmetic.full(logits)

    def layers(self) -> list[str]:
        """Names at which samples can be mixed: ``input``, ``features`` and the submodules before the head."""
        inner = [name for name, _ in self.model.named_modules() if name and name != self.head_name]
        return ["input", "features", *inner]

    def features_and_logits(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What the classifier sees, shape (n, d), and what it says, shape (n, K)."""
        caught: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda _module, args: caught.append(args[0]))
        try:
            logits = self.logits(inputs)
        finally:
            handle.remove()
        return self.arithmetic.full(caught[-1]), logits


def predict(view: ClassifierView, inputs: Inputs, batch_size: int = 512) -> tuple[Tensor, Tensor]:
    """Features (n, d) and logits (n, K) in evaluation mode, without gradients; the mode is put back."""
    modes = [(module, module.training) for module in view.model.modules()]
    view.model.eval()
    try:
        with torch.no_grad():
            parts = [view.features_and_logits(batch) for batch in batches(inputs, batch_size)]
    finally:
        for module, training in modes:
            module.training = training
    return torch.cat([features for features, _ in parts]), torch.cat([logits for _, logits in parts])


def freeze_batchnorm_(model: nn.Module) -> None:
    """Training mode for the module, evaluation mode for its batch normalisation: the statistics stay frozen."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.eval()


def head_state(view: ClassifierView) -> dict[str, Any]:
    """``weight`` (K, d) and ``bias`` (K,) of the classifier, copied."""
    return {"weight": view.head.weight.detach().clone(), "bias": view.head.bias.detach().clone()}
