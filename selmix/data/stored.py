"""Data of a sweep as one file, which the processes of a machine map into memory together."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from selmix.data.images import Encoded, Images, Inputs
from selmix.data.splits import Split, SweepData
from selmix.files import written_aside

_PARTS = ("train", "feedback", "select", "unlabelled")


def save_data(path: Path, data: SweepData) -> str:
    """Write the data that a sweep may see, aside and renamed.

    Returns:
        Digest ``sha256:...`` of the file.
    """
    document: dict[str, Any] = {
        "name": data.name, "class_names": list(data.class_names), "group_names": list(data.group_names),
        "digests": dict(data.digests),
    }  # fmt: skip
    for part in _PARTS:
        split = getattr(data, part)
        document[part] = None if split is None else _packed(split)
    # To a stream: given a path, torch writes its name into the file, and the same data would have two digests.
    with written_aside(path) as aside, aside.open("wb") as file:
        torch.save(document, file)
    return file_digest(path)


def load_data(path: Path) -> SweepData:
    """Map a file of :func:`save_data` into memory: pages that are not touched take none.

    Raises:
        ValueError: it is no such file. No code in it is ever run.
    """
    try:
        document = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        unlabelled = document["unlabelled"]
        return SweepData(
            document["name"], tuple(document["class_names"]), _split(document["train"]), _split(document["feedback"]),
            _split(document["select"]), document["digests"], tuple(document["group_names"]),
            None if unlabelled is None else _split(unlabelled),
        )  # fmt: skip
    except Exception as error:  # a damaged file raises nearly anything
        raise ValueError(f"{path}: must hold the data of a sweep, cannot be read: {error}") from error


def file_digest(path: Path) -> str:
    """Digest ``sha256:...`` of a file, read block by block."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def bytes_of(data: SweepData) -> int:
    """Bytes that the samples take in memory; images in files count as none."""
    held = [split.inputs for part in _PARTS if (split := getattr(data, part)) is not None]
    return sum(_bytes_of(inputs) for inputs in held)


def _bytes_of(inputs: Inputs) -> int:
    if isinstance(inputs, Images):
        if inputs.encoded is not None:
            return int(inputs.encoded.lengths.sum())
        if inputs.pixels is None:
            return 0
        inputs = inputs.pixels
    return inputs.numel() * inputs.element_size()


def _packed(split: Split) -> dict[str, Any]:
    inputs: Any = split.inputs
    # As plain values, which ``weights_only`` reads; a device of this process means nothing to the readers.
    if isinstance(inputs, Images):
        encoded = None if inputs.encoded is None else vars(inputs.encoded.compact())
        inputs = {**vars(inputs), "files": list(inputs.files), "encoded": encoded, "device": "cpu"}
    return {"inputs": inputs, "labels": split.labels, "groups": split.groups}


def _split(packed: dict[str, Any]) -> Split:
    inputs = packed["inputs"]
    if isinstance(inputs, dict):
        tuples = {key: tuple(inputs[key]) for key in ("files", "mean", "std")}
        encoded = Encoded(**inputs["encoded"]) if inputs.get("encoded") is not None else None
        inputs = Images(**inputs | tuples | {"encoded": encoded, "device": torch.device("cpu")})
    return Split(inputs, packed["labels"], packed["groups"])
