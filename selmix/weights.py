"""Files of weights (safetensors, or plain torch) and digests of tensors. The only import of safetensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from selmix.files import written_aside

State = Mapping[str, Tensor]
"""Parameters and buffers of a network by name."""


def save_weights(path: Path, state: State) -> None:
    """Write a state dict to a safetensors file, atomically."""
    # Imported on demand, here and below: the method itself needs torch and numpy only.
    from safetensors.torch import save_file

    # Contiguous: safetensors refuses tensors in another memory layout, such as channels-last weights.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with written_aside(path) as aside:
        save_file(tensors, str(aside))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict onto the CPU from a safetensors file, or from a torch file that holds only tensors.

    A torch file may hold the state dict itself or have it under ``state_dict`` or ``model``, and names may have the
    prefix ``module.`` of a parallel wrapper. No code in a file is ever run.

    Raises:
        ValueError: the file is missing or is neither; the message says which.
    """
    if not path.is_file():
        raise ValueError(f"{path}: must be a safetensors or torch file of weights, there is none")
    # The suffixes that torch checkpoints usually have; anything else must be safetensors.
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt", ".tar"):
        return _load_torch(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: must be a safetensors file: {error}") from error


def _load_torch(path: Path) -> dict[str, Tensor]:
    # weights_only, so that a pickle in the file cannot run code. The errors are those of damaged or other files.
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged or foreign file raises nearly anything, from struct.error to KeyError.
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: must hold tensors alone, it cannot be read so ({first}); write it with "
            "torch.save(model.state_dict(), PATH) or as safetensors"
        ) from error
    # Training scripts store their own numbers beside the state dict, and one of these keys holds it.
    for key in ("state_dict", "model"):
        if isinstance(stored, dict) and isinstance(stored.get(key), dict):
            stored = stored[key]
    if not isinstance(stored, dict) or not stored or not all(isinstance(t, Tensor) for t in stored.values()):
        raise ValueError(f"{path}: must hold a state dict (names and tensors), got {type(stored).__name__}")
    # Only if all have it: a network may have a submodule of that name.
    if all(name.startswith("module.") for name in stored):
        stored = {name.removeprefix("module."): tensor for name, tensor in stored.items()}
    return dict(stored)


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
