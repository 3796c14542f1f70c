"""Files of weights and digests of tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selmix.checkpoint_file import FACTS_KEY, State, read_checkpoint
from selmix.files import written_aside

__all__ = [
    "State", "bytes_digest", "load_checkpoint_into", "load_weights", "save_weights", "state_digest", "tensor_digest",
]  # fmt: skip


def save_weights(path: Path, state: State, facts: Mapping[str, Any] | None = None) -> None:
    """Write a state dict to a safetensors file, atomically.

    Args:
        path: of the file.
        state: names and tensors.
        facts: plain values that are kept beside them, such as :func:`selmix.data.content.facts_of`; None for nothing.
    """
    # Imported on demand, here and below: the method itself needs torch and numpy only.
    from safetensors.torch import save_file

    # Contiguous: safetensors refuses tensors in another memory layout, such as channels-last weights.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    # Under one key: the file does not keep the order of several, and the same content must give the same bytes.
    metadata = None if facts is None else {FACTS_KEY: json.dumps(facts, sort_keys=True)}
    with written_aside(path) as aside:
        save_file(tensors, str(aside), metadata)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict onto the CPU, its names and types as they are; of several in the file the preferred one.

    A file of another program is better read by :func:`selmix.checkpoints.load_for_model`, which knows the names that
    are wanted. No code in a file is ever run.

    Args:
        path: of a safetensors or torch file.
    Raises:
        ValueError: the file is missing, is neither, or holds no state dict; the message says which.
    """
    stored = dict(read_checkpoint(path).states[0].tensors)
    # Only if all have it: a network may have a submodule of that name.
    if all(name.startswith("module.") for name in stored):
        stored = {name.removeprefix("module."): tensor for name, tensor in stored.items()}
    return stored


def state_digest(state: State) -> str:
    """Digest ``sha256:...`` of the sorted names, dtypes, shapes and bytes of a state dict."""
    digest = hashlib.sha256()
    for name in sorted(state):
        # A zero byte ends the name, so that no other name and content give the same bytes.
        digest.update(name.encode() + b"\0")
        _update(digest, state[name])
    return f"sha256:{digest.hexdigest()}"


def tensor_digest(*tensors: Tensor) -> str:
    """Digest ``sha256:...`` of the dtypes, shapes and bytes of tensors, in order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        _update(digest, tensor)
    return f"sha256:{digest.hexdigest()}"


def bytes_digest(content: bytes) -> str:
    """Digest ``sha256:...`` of bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _update(digest: hashlib._Hash, tensor: Tensor) -> None:
    # Contiguous, so that equal values in another memory layout give the same bytes.
    plain = tensor.detach().cpu().contiguous()
    try:
        array = plain.numpy()
        kind = array.dtype.str
    except TypeError:  # numpy knows no bfloat16 and no eight-bit floats
        array, kind = plain.flatten().view(torch.uint8).numpy(), str(plain.dtype)
    digest.update(f"{kind}{tuple(plain.shape)}".encode())
    digest.update(array.tobytes())


def load_checkpoint_into(model: nn.Module, state: State) -> None:
    """Load a state dict that must fit the model exactly.

    Raises:
        ValueError: lists the names that are missing, unexpected, or of another shape.
    """
    # Compared here, because load_state_dict raises a RuntimeError whose message lists every name of a large network.
    own = model.state_dict()
    problems = [
        f"{name} must have shape {tuple(own[name].shape)}, got {tuple(tensor.shape)}"
        for name, tensor in state.items()
        if name in own and tensor.shape != own[name].shape
    ]
    problems += [f"unexpected {name}" for name in state if name not in own]
    problems += [f"missing {name}" for name in own if name not in state]
    if problems:
        shown = "; ".join(problems[:6]) + (f"; and {len(problems) - 6} more" if len(problems) > 6 else "")
        raise ValueError(f"the checkpoint does not fit the model: {shown}")
    model.load_state_dict(state)
