"""Reader of IDX files, the format of MNIST and of the data sets that took its place.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits", which defines the format.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

_UNSIGNED_BYTE = 0x08
_WORD = 4  # bytes of the magic number and of each size, big-endian


def read_idx(path: Path, sample_shape: tuple[int, ...]) -> Tensor:
    """Read an IDX file of unsigned bytes whole, also where it is compressed by gzip.

    Args:
        path: of the file; its name ends in ``.gz`` where it is compressed.
        sample_shape: of one sample: ``(H, W)`` for images, ``()`` for labels.
    Returns:
        Shape (n, *sample_shape), uint8, n >= 1.
    Raises:
        ValueError: the file is damaged, has another magic number or sample shape, or more or fewer bytes than its
            header says.
        OSError: it cannot be read.
    """
    dimensions = 1 + len(sample_shape)
    magic = (_UNSIGNED_BYTE << 8) + dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(_WORD * (1 + dimensions))
            words = [int.from_bytes(header[at : at + _WORD]) for at in range(0, len(header), _WORD)]
            if len(header) >= _WORD and words[0] != magic:
                raise ValueError(f"{path}: must begin with the magic number {magic} of IDX files of bytes in "
                                 f"{dimensions} dimensions, got {words[0]}")  # fmt: skip
            if len(header) < _WORD * (1 + dimensions):
                raise ValueError(
                    f"{path}: must begin with {_WORD * (1 + dimensions)} bytes of header, got {len(header)} bytes"
                )
            count, shape = words[1], tuple(words[2:])
            if shape != sample_shape or count == 0:
                raise ValueError(
                    f"{path}: must hold samples of shape {sample_shape}, got {count} of shape {shape}"
                )
            expected = count * math.prod(shape)
            # One byte more than is due: what follows is noticed, and the checksum at the end of gzip is compared.
            content = bytearray(file.read(expected + 1))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:  # what damaged files raise
        raise ValueError(f"{path}: must be a whole file compressed by gzip: {error}") from error
    if len(content) != expected:
        held = f"{len(content)}" if len(content) < expected else "more"
        raise ValueError(f"{path}: must hold {expected} bytes after its header, as that says, got {held}")
    return torch.frombuffer(content, dtype=torch.uint8).view(count, *shape)
