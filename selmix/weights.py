"""Weights as safetensors files, and digests of tensors. The only import of safetensors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict, aside and renamed."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, str(temporary))
    temporary.replace(path)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict onto the CPU.

    Raises:
        ValueError: the file is missing or no safetensors file; the message says which.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ValueError(f"{path}: must be a safetensors file, there is none")
    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: must be a safetensors file: {error}") from error


def state_digest(state: Mapping[str, Tensor]) -> str:
    """``sha256:...`` over the sorted names, dtypes, shapes and bytes of a state dict."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + b"\0")
        _update(digest, state[name])
    return f"sha256:{digest.hexdigest()}"


def tensor_digest(*tensors: Tensor) -> str:
    """``sha256:...`` over the dtypes, shapes and bytes of tensors, in order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        _update(digest, tensor)
    return f"sha256:{digest.hexdigest()}"


def _update(digest: hashlib._Hash, tensor: Tensor) -> None:
    array = tensor.detach().cpu().contiguous().numpy()
    digest.update(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.tobytes())


def load_checkpoint_into(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict that must fit the model exactly.

    Raises:
        ValueError: lists what is missing, unexpected, or of another shape.
    """
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
