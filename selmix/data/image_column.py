"""Columns of encoded images: bytes, Hugging Face's struct of bytes and path, or paths of files beside the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selmix.data.columns import is_image_feature
from selmix.data.images import Encoded, Images
from selmix.data.preprocess import Preprocess
from selmix.data.table_source import TableSource

# An encoded photograph takes megabytes.
_ROWS_AT_ONCE = 256


def image_columns(files: TableSource) -> list[str]:
    """Columns that hold encoded images by their type, or by Hugging Face's metadata."""
    schema = files.schema
    return [
        name
        for name in schema.names
        if _holds_bytes(schema.field(name).type) or is_image_feature(schema, name)
    ]


def read_images(files: TableSource, name: str, steps: Preprocess) -> Images:
    """Read a column of images; none is decoded.

    Where a row has bytes, its path is only a name and is not looked at; a row without bytes is the file of its path,
    from the folder of the table. Where no row has bytes, the images stay in their files.

    Args:
        files: the table.
        name: the column: bytes, texts (paths), or structs with ``bytes`` and perhaps ``path``.
        steps: of the preprocessing.
    Raises:
        ValueError: the column is of another kind, a row has neither bytes nor path, or its file is not there.
    """
    where, kind = files.path, files.columns[name]
    if not (_holds_bytes(kind) or _is_text(kind)):
        raise ValueError(
            f"{where}: {name} must hold encoded images: bytes, a struct of bytes and path, or paths, got {kind}"
        )
    buffers: list[Tensor] = []
    starts = torch.zeros(files.num_rows, dtype=torch.int64)
    lengths, buffer = torch.zeros_like(starts), torch.zeros_like(starts)
    beside: dict[int, Path] = {}
    for first, batch in files.batches([name], _ROWS_AT_ONCE):
        encoded, paths = _fields(batch.column(0))
        held = np.zeros(len(paths), np.int64)
        if encoded is not None:
            raw, offsets = _bytes_of(encoded)
            rows = slice(first, first + len(paths))
            held = np.diff(offsets)
            buffer[rows] = len(buffers)
            starts[rows], lengths[rows] = torch.from_numpy(offsets[:-1]), torch.from_numpy(held)
            buffers.append(raw)
        for k in np.flatnonzero(held == 0).tolist():
            beside[first + k] = _file_of(files, name, paths[k], first + k)
    if len(beside) == files.num_rows:
        return Images(files=tuple(str(beside[k]) for k in range(files.num_rows)), **vars(steps))
    for row, path in beside.items():
        content = torch.frombuffer(bytearray(path.read_bytes() or b"\0"), dtype=torch.uint8)
        buffer[row], starts[row], lengths[row] = len(buffers), 0, path.stat().st_size
        buffers.append(content)
    images = Encoded(tuple(buffers), buffer, starts, lengths, torch.arange(files.num_rows), where)
    return Images(encoded=images, **vars(steps))


def _holds_bytes(kind: Any) -> bool:
    """True for bytes, and for structs of bytes and path."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        parts = {kind.field(k).name: kind.field(k).type for k in range(kind.num_fields)}
        if "bytes" not in parts:
            return "path" in parts and _is_text(parts["path"])
        # Without any bytes the writer knew no type of them.
        return _is_binary(parts["bytes"]) or (pa.types.is_null(parts["bytes"]) and "path" in parts)
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _fields(column: Any) -> tuple[Any, list[str | None]]:
    """Bytes of each row as an Arrow array, None where the column has none, and the path of each."""
    import pyarrow as pa

    if pa.types.is_struct(column.type):
        names = [column.type.field(k).name for k in range(column.type.num_fields)]
        # ``field`` passes over the gaps of the struct itself; ``flatten`` does not.
        parts = dict(zip(names, column.flatten(), strict=True))
        paths = parts["path"].to_pylist() if "path" in parts else [None] * len(column)
        return parts.get("bytes"), paths
    if _is_text(column.type):
        return None, column.to_pylist()
    return column, [None] * len(column)


def _bytes_of(column: Any) -> tuple[Tensor, np.ndarray[Any, np.dtype[np.int64]]]:
    """Bytes of all rows in one, shape (bytes,), and where each begins, one more than rows; a gap has no bytes."""
    import pyarrow as pa

    column = column.cast(pa.large_binary())
    if not len(column):
        return torch.zeros(1, dtype=torch.uint8), np.zeros(1, np.int64)
    # A slice of a longer array keeps the offsets of the whole.
    offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
    whole = column.buffers()[2]
    raw = (
        np.zeros(1, np.uint8)
        if whole is None
        else np.frombuffer(whole, np.uint8)[offsets[0] : offsets[-1]].copy()
    )
    return torch.from_numpy(raw), offsets - offsets[0]


def _file_of(files: TableSource, name: str, path: str | None, row: int) -> Path:
    """File of a row without bytes."""
    if not path:
        raise ValueError(
            f"{files.path}: values must be given in every row, missing in {name}: {files.row(row)} has neither bytes "
            "nor a path"
        )
    # From the table's own file, or from the folder of all files.
    tried = [(home / path).absolute() for home in files.homes(row)]
    for file in tried:
        if file.is_file():
            return file
    raise ValueError(f"{files.path}: {name} of {files.row(row)} must be a file, {tried[0]} is not there")
