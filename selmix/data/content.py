"""Content of a split: the identity of its set of samples, whatever their order and the size that they are read at."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from selmix.data.images import Inputs
from selmix.data.splits import Split
from selmix.sketch import Sketch
from selmix.weights import bytes_digest


@dataclass(frozen=True)
class Content:
    """Content of a split.

    Attributes:
        digest: digest ``sha256:...`` of the samples as a multiset of (bytes, label).
        sketch: of the set of their bytes, whatever the labels: what was seen under another label was seen.
    """

    digest: str
    sketch: Sketch


def content_of(split: Split) -> Content:
    """Content of the samples, each read once.

    Images in files count by the bytes of their files, so neither size nor normalisation matters; images in memory by
    their pixels, tensors by their values, each in the form that it is stored in. Groups are left out: they are
    attributes of the same samples.

    Args:
        split: n samples; the memory beside them is 64 bytes each.
    Raises:
        OSError: a file cannot be read.
    """
    samples = list(_sample_digests(split.inputs))
    tagged = [
        hashlib.sha256(sample + label.to_bytes(8, "little", signed=True)).digest()
        for sample, label in zip(samples, split.labels.tolist(), strict=True)
    ]
    # Sorted digests of equal length: the same bytes for every order, and a repeated sample counts twice.
    return Content(bytes_digest(b"".join(sorted(tagged))), Sketch.of(samples))


def content_digest(split: Split) -> str:
    """Digest of :func:`content_of`."""
    return content_of(split).digest


def preprocess_digest(inputs: Inputs) -> str:
    """Digest ``sha256:...`` of what is done to the samples before a model sees them: their shape and normalisation."""
    if isinstance(inputs, Tensor):
        return bytes_digest(f"{tuple(inputs.shape[1:])}".encode())
    return bytes_digest(f"{tuple(inputs.shape[1:])}{inputs.mean}{inputs.std}".encode())


def _sample_digests(inputs: Inputs) -> Iterable[bytes]:
    """SHA-256 of each sample's bytes, 32 bytes each, in order."""
    if not isinstance(inputs, Tensor):
        if inputs.pixels is None:
            return inputs.file_digests()
        inputs = inputs.pixels
    flat = inputs.detach().cpu().reshape(len(inputs), math.prod(inputs.shape[1:])).contiguous()
    # As bytes, because numpy has no bfloat16.
    return (hashlib.sha256(row).digest() for row in flat.view(torch.uint8).numpy())
