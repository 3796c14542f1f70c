"""View of a classifier as a backbone and a linear head, for any module that ends in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from selmix.data.feature_cache import FeatureCache
from selmix.data.images import Inputs, batches
from selmix.precision import Arithmetic


class ClassifierView:
    """View of a module with its classifier: the ``nn.Linear`` of a given name, or the last one.

    Args:
        model: the module.
        head: name of the classifier in the module; None for the last ``nn.Linear``.
    Attributes:
        model: the module.
        head: the classifier.
        head_name: name of the classifier in the module.
        arithmetic: precision and memory format of the forward pass; see :meth:`compute_in_`.
        network: callable of a forward pass: the module, or a wrapper that exchanges its gradients with other ranks.
        cache: of the features of a model that nobody trains; None computes them each time.
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
        # The estimate of the gain reads the bias, and `start: balanced_head` sets it.
        if self.head.bias is None:
            raise ValueError(f"the classifier {self.head_name!r} must have a bias; build it with bias=True")
        self.arithmetic = Arithmetic()
        self.network: Callable[[Tensor], Tensor] = model
        self.cache: FeatureCache | None = None

    def compute_in_(self, arithmetic: Arithmetic) -> None:
        """Use ``arithmetic`` in every later forward pass through this view."""
        arithmetic.lay_out_(self.model)
        self.arithmetic = arithmetic

    def logits(self, inputs: Tensor) -> Tensor:
        """Compute the logits of a batch, shape (n, K); float32 if the forward pass is in a lower precision."""
        with self.arithmetic.autocast(inputs.device):
            logits = self.network(self.arithmetic.laid_out(inputs))
        return self.arithmetic.full(logits)

    def layers(self) -> list[str]:
        """Names of the layers at which samples can be mixed: ``input``, ``features``, every submodule but the head."""
        # The empty name is that of the module itself.
        inner = [name for name, _ in self.model.named_modules() if name and name != self.head_name]
        return ["input", "features", *inner]

    def features_and_logits(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the features, the classifier's input, shape (n, d), and the logits, shape (n, K)."""
        # By a hook on the head, which works for any module, however its forward method is written.
        caught: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda _module, args: caught.append(args[0]))
        try:
            logits = self.logits(inputs)
        finally:
            handle.remove()
        return self.arithmetic.full(caught[-1]), logits


def predict(view: ClassifierView, inputs: Inputs, batch_size: int = 512) -> tuple[Tensor, Tensor]:
    """Compute features and logits in evaluation mode, without gradients; the mode is restored.

    Args:
        view: the model.
        inputs: n inputs.
        batch_size: inputs per forward pass.
    Returns:
        Features, shape (n, d), and logits, shape (n, K).
    """
    if view.cache is not None:
        how = (view.head_name, str(view.arithmetic), batch_size)
        return view.cache.predict(
            inputs, how, view.head.weight.device, lambda: _predicted(view, inputs, batch_size)
        )
    return _predicted(view, inputs, batch_size)


def _predicted(view: ClassifierView, inputs: Inputs, batch_size: int) -> tuple[Tensor, Tensor]:
    # Kept for each module: frozen batch normalisation is in another mode than the rest.
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
    """Set the module to training mode and its batch normalisation to evaluation mode: the statistics stay frozen."""
    model.train()
    for module in model.modules():
        # A private name, but the only base class that torch's batch normalisations of all dimensions share.
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.eval()


def head_state(view: ClassifierView) -> dict[str, Any]:
    """Copy of the classifier's ``weight`` (K, d) and ``bias`` (K,)."""
    return {"weight": view.head.weight.detach().clone(), "bias": view.head.bias.detach().clone()}
