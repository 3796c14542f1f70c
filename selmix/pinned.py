"""A pinned model, loaded from its lock file and the weights beside it."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from selmix.models import ModelConfig
from selmix.weights import load_checkpoint_into, load_weights, state_digest


def load_pin(path: str | Path) -> nn.Module:
    """The model of a pin, in evaluation mode, on the CPU.

    Args:
        path: of the pin, such as ``pins/x.yaml``; the weights lie beside it as ``x.safetensors``.
    Returns:
        The module, with ``class_names``, a tuple of K texts.
    Raises:
        ValueError: no pin there, no weights beside it, or weights with another digest than the pin's.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: must be a pin, there is none")
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or not {"protocol", "digests"} <= document.keys():
        raise ValueError(f"{path}: must be a pin written by `selmix pin`")
    protocol = document["protocol"]
    names = tuple(str(name) for name in protocol["class_names"])
    state = load_weights(path.with_suffix(".safetensors"))
    digest = state_digest(state)
    if digest != document["digests"]["weights"]:
        raise ValueError(
            f"{path.with_suffix('.safetensors')}: must have digest {document['digests']['weights']}, got {digest}"
        )
    model = ModelConfig(**protocol["model"]).build(tuple(protocol["input_shape"]), len(names))
    load_checkpoint_into(model, state)
    model.class_names = names  # type: ignore[assignment]  # nn.Module's __setattr__ is typed for tensors and modules
    return model.eval()
