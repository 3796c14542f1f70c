"""Loading of a pinned model from its lock file and the weights beside it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import nn

from selmix.corrections import predict, split_correction
from selmix.models import ModelConfig
from selmix.weights import load_checkpoint_into, load_weights, state_digest


def load_pin(path: str | Path) -> nn.Module:
    """Load the model of a pin, in evaluation mode, on the CPU.

    Args:
        path: path of the pin, such as ``pins/x.yaml``; the weights lie beside it as ``x.safetensors``.
    Returns:
        The module, whose ``forward`` gives the logits as trained, with ``class_names``, a tuple of K strings;
        ``correction``, a :class:`selmix.corrections.Correction` or None; and ``predict(x, group=None)``, which gives
        labels (n,) and probabilities (n, K), corrected.
    Raises:
        ValueError: there is no pin, there are no weights beside it, or the weights have another digest than the pin's.
    """
    # Imported on demand: the method itself needs torch and numpy only.
    import yaml

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: must be a pin, there is none; write one with `selmix pin`")
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or not {"protocol", "digests"} <= document.keys():
        raise ValueError(f"{path}: must be a pin written by `selmix pin`, with the keys protocol and digests")
    protocol, digests = document["protocol"], document["digests"]
    lacking = [f"protocol.{key}" for key in ("class_names", "model", "input_shape") if key not in protocol]
    lacking += [] if "weights" in digests else ["digests.weights"]
    if lacking:
        raise ValueError(f"{path}: must be a whole pin, it lacks {', '.join(lacking)}")
    names = tuple(str(name) for name in protocol["class_names"])
    state = load_weights(path.with_suffix(".safetensors"))
    # Checked before they are used: weights that were replaced or edited are not those of the pin.
    digest = state_digest(state)
    if digest != digests["weights"]:
        raise ValueError(
            f"{path.with_suffix('.safetensors')}: must have digest {digests['weights']}, got {digest}"
        )
    model = ModelConfig(**protocol["model"]).build(tuple(protocol["input_shape"]), len(names))
    weights, correction = split_correction(state)
    load_checkpoint_into(model, weights)
    # The errors to ignore: nn.Module's __setattr__ is typed for tensors and modules.
    model.class_names = names  # type: ignore[assignment]
    model.correction = correction  # type: ignore[assignment]
    model.predict = partial(predict, model, correction)  # type: ignore[assignment]
    return model.eval()
