"""Files of weights as other programs write them: the state dicts that a file holds.

A file may hold a state dict, or several beside a training script's own numbers. Nothing in a file is ever run: of a
pickle only tensors and plain containers are built, everything else is an inert placeholder.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

State = Mapping[str, Tensor]
"""Parameters and buffers of a network by name."""

# Under these names training scripts keep the weights that they trained, and under those others averages of them.
_WEIGHTS_KEYS = (
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "weights",
    "params",
)
_AVERAGE_MARKS = ("ema", "swa", "average", "teacher", "shadow")
_MAX_DEPTH = 3
_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
_CLASS_KEYS = ("class_names", "classes")
FACTS_KEY = "selmix"
"""Key of what this package writes beside weights, in the metadata of a safetensors file."""


@dataclass(frozen=True)
class StoredState:
    """One state dict of a file.

    Attributes:
        key: dotted path of its place in the file; empty for the file itself.
        tensors: by name, as they are stored.
    """

    key: str
    tensors: State

    @property
    def is_average(self) -> bool:
        """True if its key says that it holds averaged weights."""
        return any(mark in self.key.lower() for mark in _AVERAGE_MARKS)

    @property
    def preference(self) -> tuple[bool, int, str]:
        """Sort key: weights as trained before averages, usual names first."""
        last = self.key.rpartition(".")[2]
        place = _WEIGHTS_KEYS.index(last) if last in _WEIGHTS_KEYS else len(_WEIGHTS_KEYS)
        return self.is_average, place if self.key else -1, self.key


@dataclass(frozen=True)
class CheckpointFile:
    """Contents of a file of weights.

    Attributes:
        path: of the file.
        states: its state dicts, the preferred one first.
        class_names: names of the classes that it carries; None where it carries none.
    """

    path: Path
    states: tuple[StoredState, ...]
    class_names: tuple[str, ...] | None = None


def read_checkpoint(path: Path, on_meta: bool = False) -> CheckpointFile:
    """Read the state dicts of a safetensors or torch file onto the CPU.

    Args:
        path: of the file.
        on_meta: True to read names, shapes and types alone; the tensors then have no data.
    Raises:
        ValueError: the file is missing, is neither, or holds no state dict; the message says which.
    """
    if not path.is_file():
        raise ValueError(f"{path}: must be a safetensors or torch file of weights, there is none")
    with path.open("rb") as stream:
        head = stream.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path}: must be a file of weights, got a pointer of Git LFS; fetch it with git lfs pull"
        )
    # By content: people name files as they like.
    # First, as the length of its header, with which it begins, may be the first byte of a pickle.
    if head[8:9] == b"{":
        return _safetensors_file(path, on_meta)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return _torch_file(path, on_meta)
    if path.suffix in _TORCH_SUFFIXES:
        raise ValueError(
            f"{path}: must hold tensors alone, it is neither a torch file nor safetensors; write it with "
            "torch.save(model.state_dict(), PATH) or as safetensors"
        )
    raise ValueError(f"{path}: must be a safetensors file, or one of torch; it is neither")


# -- files ------------------------------------------------------------------------------------------------


def _safetensors_file(path: Path, on_meta: bool) -> CheckpointFile:
    # Imported on demand: the method itself needs torch and numpy only.
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            # On the meta device nothing but the header is read.
            tensors = {
                name: _meta_of(file.get_slice(name)) if on_meta else file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118 - no mapping
            }
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: must be a safetensors file: {error}") from error
    return CheckpointFile(path, (StoredState("", tensors),), _class_names(_parsed(metadata)))


def carried_facts(path: Path) -> Mapping[str, Any]:
    """Facts that this package has written beside weights: ``class_names`` and ``preprocess``; {} in files of others.

    Only the header of a safetensors file is read.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return {}
    try:
        with safe_open(str(path), framework="pt") as file:
            return _parsed(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def _parsed(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Metadata of a safetensors file, which are texts, as the values that JSON says; ours lie under one key."""
    values: dict[str, Any] = dict(metadata)
    for key, text in metadata.items():
        with suppress(ValueError):
            values[key] = json.loads(text)
    own = values.pop(FACTS_KEY, None)
    return values | (own if isinstance(own, dict) else {})


# Names of the types in a safetensors header.
_SAFETENSORS_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def _meta_of(part: Any) -> Tensor:
    # A type without an entry (eight-bit floats) is converted on loading; its shape is what matters here.
    kind = _SAFETENSORS_TYPES.get(part.get_dtype(), torch.uint8)
    return torch.empty(part.get_shape(), dtype=kind, device="meta")


class _Inert(dict[Any, Any]):
    """Placeholder of an object in a pickle that is neither a tensor nor a plain container. It does nothing."""

    described = ""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> _Inert:
        return dict.__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """Take whatever the object took."""

    def __setstate__(self, _state: Any) -> None:
        """Leave the state alone."""

    def __call__(self, *_args: Any, **_kwargs: Any) -> _Inert:
        """Stand for what a call would have given."""
        return _Inert()

    def append(self, _value: Any) -> None:
        """Take an element of a list-like object."""

    def extend(self, _values: Any) -> None:
        """Take elements of a list-like object."""

    def __setitem__(self, _key: Any, _value: Any) -> None:
        """Take an entry of a dict-like object."""

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


# The only names of a pickle that stand for themselves: they build tensors and ordered dicts, and run nothing else.
_BUILDERS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
}  # fmt: skip


class _TensorsOnly(pickle.Unpickler):
    """Unpickler for which every name but those of :data:`_BUILDERS` is an inert placeholder."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _BUILDERS:
            return _BUILDERS[module, name]
        kind = getattr(torch, name, None) if module == "torch" else None
        if isinstance(kind, torch.dtype):
            return kind
        return type("_Inert", (_Inert,), {"described": f"{module}.{name}"})


_PICKLE = SimpleNamespace(
    __name__="tensors only",  # torch.load asks for it
    Unpickler=_TensorsOnly,
    load=lambda stream, **_kwargs: _TensorsOnly(stream).load(),
    loads=lambda content, **_kwargs: _TensorsOnly(io.BytesIO(content)).load(),
)


def _torch_file(path: Path, on_meta: bool) -> CheckpointFile:
    device = "meta" if on_meta else "cpu"
    if _is_program(path):
        raise ValueError(
            f"{path}: must hold tensors alone, got a TorchScript program, and no code of a file is ever run; write it "
            "with torch.save(model.state_dict(), PATH)"
        )
    try:
        stored = _unpickled(path, device)
    # A damaged or foreign file raises nearly anything, from struct.error to KeyError.
    except Exception as error:
        raise ValueError(
            f"{path}: must hold tensors alone, it cannot be read ({type(error).__name__}: damaged, cut short or of "
            "another program); write it with torch.save(model.state_dict(), PATH) or as safetensors"
        ) from error
    if isinstance(stored, _Inert):
        raise ValueError(
            f"{path}: must hold tensors alone, got a pickled {stored.described}, and no code of a file is ever run; "
            "write it with torch.save(model.state_dict(), PATH) where its class is defined"
        )
    states = sorted(_states(stored, "", 0), key=lambda each: each.preference)
    if not states:
        keys = ", ".join(map(str, stored)) if isinstance(stored, dict) else type(stored).__name__
        raise ValueError(f"{path}: must hold a state dict (names and tensors), got {keys[:200] or 'nothing'}")
    return CheckpointFile(path, tuple(states), _class_names(stored))


def _is_program(path: Path) -> bool:
    """True if a zip archive is one of TorchScript, which has constants beside its weights."""
    with suppress(zipfile.BadZipFile, OSError), zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
    return False


def _unpickled(path: Path, device: str) -> Any:
    # torch's own safe loader first. It refuses a file for one foreign object, such as the hyper-parameters that
    # training frameworks store beside the weights.
    with suppress(Exception):
        return torch.load(path, map_location=device, weights_only=True)
    return torch.load(path, map_location=device, weights_only=False, pickle_module=_PICKLE)


def _states(value: Any, key: str, depth: int) -> Iterator[StoredState]:
    """State dicts in nested dicts: mappings with texts as keys and tensors as values."""
    if not isinstance(value, dict) or isinstance(value, _Inert) or not value or depth > _MAX_DEPTH:
        return
    if not all(isinstance(name, str) for name in value):
        return
    tensors = {name: each.detach() for name, each in value.items() if isinstance(each, Tensor)}
    # Some modules keep extra state that is no tensor; a training script keeps a tensor or two beside its dicts.
    if tensors and len(tensors) > sum(isinstance(each, dict) for each in value.values()):
        yield StoredState(key, tensors)
        return
    for name, each in value.items():
        # Moments of an optimiser have the shapes of the weights.
        if "optim" not in name.lower():
            yield from _states(each, f"{key}.{name}".lstrip("."), depth + 1)


def _class_names(stored: Any) -> tuple[str, ...] | None:
    """Names of the classes that a file carries, as ``class_names``, ``classes`` or ``class_to_idx``."""
    if not isinstance(stored, Mapping):
        return None
    for key in _CLASS_KEYS:
        names = stored.get(key)
        if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    places = stored.get("class_to_idx")
    if (
        isinstance(places, dict)
        and places
        and sorted(map(str, places.values())) == sorted(map(str, range(len(places))))
    ):
        return tuple(sorted(places, key=lambda name: int(places[name])))
    return None
