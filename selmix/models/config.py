"""Configuration of a model: its name, and the name of its classifier."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from selmix.model import ClassifierView
from selmix.models.libraries import LIBRARIES, library_model
from selmix.models.linear_head import linear_head, standardised_head
from selmix.models.resnet_cifar import resnet32
from selmix.models.small_cnn import small_cnn, tiny_cnn
from selmix.models.wide_resnet import wrn_28_2
from selmix.user_code import is_reference, load_function

MODELS = {
    "small_cnn": small_cnn,
    "tiny_cnn": tiny_cnn,
    "wrn_28_2": wrn_28_2,
    "resnet32": resnet32,
    "linear_head": linear_head,
    "standardised_head": standardised_head,
}


@dataclass(frozen=True)
class ModelConfig:
    """A model by name.

    Attributes:
        name: key of MODELS, ``torchvision/NAME``, ``timm/NAME``, or ``package.module:function``, a function of the
            user's that takes any of ``num_classes``, ``input_shape`` and ``generator`` and returns an ``nn.Module``.
        head: name of the classifier in the model; with None the last ``nn.Linear``.
    """

    name: str
    head: str | None = None

    def build(
        self, input_shape: tuple[int, ...], num_classes: int, generator: torch.Generator | None = None
    ) -> nn.Module:
        """Build the model on the CPU with weights drawn from ``generator``; torch's global stream stays as it was.

        Args:
            input_shape: of one sample, without the batch.
            num_classes: K.
            generator: of the weights, on the CPU; with None one with torch's default seed.
        Raises:
            ValueError: no such model, it cannot take this input, or its classifier does not give K logits.
        """
        generator = generator if generator is not None else torch.Generator()
        model = self._module(input_shape, num_classes, generator)
        view = self.view(model)
        if view.head.out_features != num_classes:
            raise ValueError(
                f"{self.name}: the classifier {view.head_name!r} must give {num_classes} logits, one per class of "
                f"the data, got {view.head.out_features}; name another with model.head"
            )
        return model

    def view(self, model: nn.Module) -> ClassifierView:
        """View a model of this configuration as backbone and classifier."""
        return ClassifierView(model, self.head)

    def _module(
        self, input_shape: tuple[int, ...], num_classes: int, generator: torch.Generator
    ) -> nn.Module:
        if self.name in MODELS:
            return MODELS[self.name](input_shape, num_classes, generator)
        library, slash, name = self.name.partition("/")
        given = {"num_classes": num_classes, "input_shape": input_shape, "generator": generator}
        # Other models draw from torch's global stream. They are built on the CPU: no stream of a GPU is forked.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            if slash and library in LIBRARIES:
                return library_model(library, name, input_shape, num_classes)
            if is_reference(self.name):
                return _users_model(self.name, given)
        raise ValueError(
            f"model must be one of {', '.join(MODELS)}, torchvision/NAME, timm/NAME or module:function, "
            f"got {self.name!r}"
        )


def build_model(
    name: str, input_shape: tuple[int, ...], num_classes: int, generator: torch.Generator
) -> nn.Module:
    """Build a model whose classifier is its last ``nn.Linear``; see :meth:`ModelConfig.build`.

    Args:
        name: of the model, as in :class:`ModelConfig`.
        input_shape: of one sample, without the batch.
        num_classes: K.
        generator: of the weights, on the CPU.
    """
    return ModelConfig(name).build(input_shape, num_classes, generator)


def _users_model(reference: str, given: dict[str, Any]) -> nn.Module:
    function = load_function(reference)
    parameters = inspect.signature(function).parameters
    # Checked before the call, whose TypeError could as well come from within the function.
    unknown = [p.name for p in parameters.values() if p.default is p.empty and p.name not in given
               and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]  # fmt: skip
    if unknown:
        raise ValueError(f"{reference} may take {', '.join(given)}, it also requires {', '.join(unknown)}")
    try:
        model = function(**{name: value for name, value in given.items() if name in parameters})
    except Exception as error:  # whatever the user's function raises
        raise ValueError(f"{reference} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{reference} must return an nn.Module, got {type(model).__name__}")
    # Device and precision are settings of the run, not of the model.
    return model.cpu().float()
