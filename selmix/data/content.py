"""Content of a split: the identity of its set of samples, whatever their order and the size that they are read at."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selmix.data.images import Inputs
from selmix.data.preprocess import Preprocess
from selmix.data.splits import Split, SweepData
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
    samples = list(sample_digests(split.inputs))
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
    """Digest ``sha256:...`` of what is done to the samples before a model sees them: their shape and preprocessing."""
    shape = tuple(inputs.shape[1:])
    if isinstance(inputs, Tensor):
        return bytes_digest(f"{shape}".encode())
    # Nothing is decoded of pixels in memory: the steps before the normalisation do not act.
    steps = (
        Preprocess(size=inputs.size, mean=inputs.mean, std=inputs.std, input_range=inputs.input_range)
        if inputs.is_decoded
        else inputs.preprocess
    )
    # What earlier versions did has the digest that they gave it.
    more = "" if steps.is_earlier else json.dumps(steps.as_keys(), sort_keys=True)
    return bytes_digest(f"{shape}{inputs.mean}{inputs.std}{more}".encode())


def facts_of(data: SweepData) -> dict[str, Any]:
    """Facts of the data that weights trained on them carry: names of the classes, and the preprocessing of images."""
    facts: dict[str, Any] = {"class_names": list(data.class_names)}
    inputs = data.train.inputs
    if not isinstance(inputs, Tensor) and not inputs.is_decoded:
        facts["preprocess"] = inputs.as_keys()
    return facts


def sample_digests(inputs: Inputs) -> Iterable[bytes]:
    """SHA-256 of each sample's bytes, 32 bytes each, in order."""
    if not isinstance(inputs, Tensor):
        if inputs.pixels is None:
            return inputs.content_digests()
        inputs = inputs.pixels
    flat = inputs.detach().cpu().reshape(len(inputs), math.prod(inputs.shape[1:])).contiguous()
    # As bytes, because numpy has no bfloat16.
    return (hashlib.sha256(row).digest() for row in flat.view(torch.uint8).numpy())
