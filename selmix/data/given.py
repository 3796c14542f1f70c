"""Inputs of a finished model from what a user gives: images of any kind, or rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selmix.data.arrays import MemoryTable
from selmix.data.columns import matched_columns, vectors
from selmix.data.image_column import read_images
from selmix.data.images import SUFFIXES, Inputs, in_threads
from selmix.data.parquet_files import find_files
from selmix.data.preprocess import Preprocess, decode
from selmix.data.table_source import TableSource

if TYPE_CHECKING:
    from PIL import Image as PillowImage

    Picture = str | Path | bytes | PillowImage.Image | NDArray[Any] | Tensor


def image_batch(images: Picture | Sequence[Picture], steps: Preprocess) -> Tensor:
    """Preprocess images as those of the data were.

    Args:
        images: one, or a sequence: Pillow's, paths, bytes of files; arrays (H, W) or (H, W, C), tensors (C, H, W), each
            of uint8, uint16, or floats in [0, 1]. A fourth axis in front is a batch. Of four channels the last one,
            transparency, is dropped, as it is of files.
        steps: of the preprocessing.
    Returns:
        Shape (n, C, size, size), float32.
    Raises:
        ValueError: one is no image; the message names it by its path or its place.
    """
    each = _separate(images)
    if not each:
        raise ValueError("images: must be one at least, got none")
    decoded = in_threads(lambda k: _decoded(each[k], k, steps), range(len(each)))
    # One range, whatever their depth.
    shares = [pixels.float() / 255.0 if pixels.dtype == torch.uint8 else pixels for pixels in decoded]
    return steps.normalised(torch.stack(shares))


def is_image(given: object) -> bool:
    """True for what :func:`image_batch` takes as one image, or as several."""
    if isinstance(given, str | Path):
        return Path(given).suffix.lower() in SUFFIXES
    if isinstance(given, list | tuple):
        return all(is_image(each) or isinstance(each, str | Path) for each in given)
    return isinstance(given, bytes | np.ndarray | Tensor) or hasattr(given, "getbands")


def table_inputs(table: Any, columns: str | Sequence[str], steps: Preprocess | None) -> Inputs:
    """Read the inputs of a model from a table: feature vectors, or encoded images.

    Args:
        table: path of a Parquet file, folder or pattern; a pyarrow table; or a pandas data frame.
        columns: the column of vectors or of images, or the columns of numbers in their order.
        steps: of the preprocessing of images; None for feature vectors.
    Raises:
        ValueError: it is no table, or lacks a column.
    """
    source = _source(table)
    if steps is not None:
        name = columns if isinstance(columns, str) else columns[0]
        source.check([name])
        return read_images(source, name, steps)
    return vectors(source, matched_columns(list(source.columns), columns, (), source.path))


def _source(table: Any) -> TableSource:
    import pyarrow as pa

    if isinstance(table, str | Path):
        return find_files(str(table))
    if isinstance(table, pa.Table):
        return MemoryTable(table, "table")
    if hasattr(table, "iloc"):  # a data frame, without importing pandas
        return MemoryTable(pa.Table.from_pandas(table, preserve_index=False), "table")
    raise ValueError(
        f"must be images, a tensor, the path of a Parquet file, or a table, got {type(table).__name__}"
    )


def _separate(images: Any) -> list[Any]:
    """One image each."""
    if isinstance(images, list | tuple):
        return list(images)
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        return list(images)
    return [images]


def _decoded(given: Any, place: int, steps: Preprocess) -> Tensor:
    if isinstance(given, str | Path):
        return decode(given, steps)
    name = f"image {place}"
    if isinstance(given, Tensor):
        given = given.cpu().numpy()
        if given.ndim == 3:
            given = given.transpose(1, 2, 0)
    if isinstance(given, np.ndarray):
        return _of_array(given, name, steps)
    if not isinstance(given, bytes) and not hasattr(given, "getbands"):
        raise ValueError(
            f"{name}: must be an image, its path, an array or a tensor, got {type(given).__name__}"
        )
    return decode(given, steps, name)


def _of_array(array: NDArray[Any], name: str, steps: Preprocess) -> Tensor:
    from PIL import Image

    planes = array[:, :, None] if array.ndim == 2 else array
    if planes.ndim != 3 or planes.shape[2] not in (1, 2, 3, 4) or 0 in planes.shape:
        raise ValueError(
            f"{name}: must have shape (H, W) or (H, W, C) with C of 1 to 4 as an array, (C, H, W) as a tensor, got "
            f"{tuple(array.shape)}"
        )
    # Transparency is the last of two or four.
    planes = planes[:, :, : 1 if planes.shape[2] < 3 else 3]
    if planes.dtype == np.uint8:
        plain = planes[:, :, 0] if planes.shape[2] == 1 else planes
        return decode(Image.fromarray(np.ascontiguousarray(plain)), steps, name)
    if planes.dtype == np.uint16:
        deep, white = planes.astype(np.float32), steps.white or 65535.0
    elif np.issubdtype(planes.dtype, np.floating):
        deep, white = planes.astype(np.float32), steps.white or 1.0
    else:
        raise ValueError(f"{name}: must be of uint8, uint16 or floats in [0, 1], got {planes.dtype}")
    # Pillow has no mode for several channels of more than eight bits.
    brought = [
        decode(
            Image.fromarray(np.ascontiguousarray(deep[:, :, c])),
            replace(steps, mean=steps.mean[c : c + 1], std=steps.std[c : c + 1], white=white),
            name,
        )
        for c in range(min(deep.shape[2], steps.channels))
    ]
    return torch.cat(brought) if len(brought) == steps.channels else brought[0].expand(steps.channels, -1, -1)
