"""Data of a sweep from arrays or a data frame in one call, and the same as a Parquet file."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selmix.data.images import IMAGENET_MEAN, IMAGENET_STD, Images, Inputs
from selmix.data.parquet import ParquetConfig
from selmix.data.splits import SweepData
from selmix.data.table_source import ROWS_AT_ONCE, TableSource
from selmix.data.wording import listed
from selmix.files import written_aside

_CHANNELS = (1, 3)


@dataclass(frozen=True, eq=False)
class MemoryTable:
    """An Arrow table in memory; two of them are never the same table.

    Attributes:
        table: n rows.
        path: name for messages.
    """

    table: Any
    path: str

    @property
    def num_rows(self) -> int:
        return int(self.table.num_rows)

    @property
    def schema(self) -> Any:
        return self.table.schema

    @property
    def columns(self) -> dict[str, Any]:
        """Name -> Arrow type."""
        return dict(zip(self.schema.names, self.schema.types, strict=True))

    @property
    def stamp(self) -> int:
        return id(self.table)

    def check(self, names: Sequence[str]) -> None:
        """Check that there are these columns; raises ValueError where one is missing."""
        held = self.schema.names
        missing = [name for name in names if name not in held]
        if missing:
            raise ValueError(
                f"{self.path}: must have a column {missing[0]}, got {listed(held, 'columns', 12)}"
            )

    def read(self, names: Sequence[str]) -> Any:
        """Some columns as an Arrow table; raises as :meth:`check`."""
        self.check(names)
        return self.table.select(list(dict.fromkeys(names)))

    def batches(self, names: Sequence[str], size: int = ROWS_AT_ONCE) -> Iterator[tuple[int, Any]]:
        """Columns batch by batch, each with the number of its first row."""
        start = 0
        for batch in self.read(names).to_batches(max_chunksize=size):
            yield start, batch
            start += batch.num_rows

    def row(self, number: int) -> str:
        """Words for a row, counted from 0."""
        return f"row {number}"

    def homes(self, number: int) -> list[Path]:
        """The working folder."""
        return [Path()]


@dataclass(frozen=True)
class ArrayData(ParquetConfig):
    """Rows in memory with the keys of :class:`selmix.data.parquet.ParquetConfig`; ``load_test`` gives the test split.

    Attributes:
        source: the table.
        inputs: of all rows, where the table does not hold them; else None.
    """

    source: MemoryTable | None = field(default=None, kw_only=True)
    inputs: Inputs | None = field(default=None, kw_only=True)

    @property
    def _files(self) -> TableSource:
        if self.source is None:
            raise AssertionError("array data must have a table, got none")
        return self.source

    @property
    def input_shape(self) -> tuple[int, ...]:
        return super().input_shape if self.inputs is None else tuple(self.inputs.shape[1:])

    @property
    def notes(self) -> list[str]:
        """Notes on what was done to divide the rows, one line each."""
        return super().notes if self.inputs is None else list(self._division.notes)

    def _inputs(self) -> Inputs:
        return super()._inputs() if self.inputs is None else self.inputs


def from_arrays(inputs: Any, labels: Any, **keys: Any) -> SweepData:
    """Data of a sweep from arrays, in one call.

    The test split is set aside, as always; ``array_data(...)`` with the same arguments gives it by ``load_test()``.

    Args:
        inputs: feature vectors, shape (n, d), numbers; images, uint8, shape (n, H, W), (n, H, W, C) or (n, C, H, W)
            with 1 or 3 channels, which are normalised; or floats of any shape (n, ...), which are taken as they are.
            NumPy arrays, tensors, or nested lists.
        labels: n whole numbers or texts.
        **keys: as of :func:`array_data`.
    Raises:
        ValueError: lengths differ, a label is missing, a feature is not finite, a class has too few rows for its
            splits, or a key is out of range; the message names rows, from 0.
        TypeError: an unknown key.
    """
    return array_data(inputs, labels, **keys).load()


def array_data(
    inputs: Any,
    labels: Any,
    *,
    groups: Any = None,
    units: Any = None,
    split: Any = None,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **keys: Any,
) -> ArrayData:
    """Configuration of data from arrays: ``load()`` gives train, feedback and select, ``load_test()`` test.

    Args:
        inputs: as of :func:`from_arrays`.
        labels: n whole numbers or texts.
        groups: group of every row, or None.
        units: unit (subject, patient, video) of every row, or None.
        split: train, feedback, select (or validation, valid, val, dev) or test for every row; None: drawn.
        class_names: K names: of the labels 0 to K - 1, or the order of labels that are texts; None: the labels' own.
        mean: of each channel of uint8 images, in units where white is 1; None: ImageNet's, 0.5 for one channel.
        std: likewise.
        **keys: ``feedback, select, test, floor, rare_classes, seed, allow_duplicates``, as of
            :class:`selmix.data.parquet.ParquetConfig`.
    Raises:
        ValueError: as of :func:`from_arrays`, some when the data are loaded.
        TypeError: an unknown key.
    """
    columns = _columns(labels, groups, units, split, class_names)
    rows = len(columns["label"])
    # Each attribute lies in a column of its own name.
    named: dict[str, Any] = {key: key for key in ("group", "unit", "split") if key in columns}
    schema = _schema_of(columns, class_names)
    values: Inputs | None = _inputs_of(inputs, rows, mean, std)
    if isinstance(values, Tensor) and values.dim() == 2:
        columns["features"], values = _lists(values), None
    import pyarrow as pa

    source = MemoryTable(
        pa.table(columns).replace_schema_metadata(schema) if schema else pa.table(columns), "arrays"
    )
    return ArrayData("arrays", **named, **keys, source=source, inputs=values)


def from_frame(frame: Any, **keys: Any) -> SweepData:
    """Data of a sweep from a data frame, in one call.

    Args:
        frame: of pandas or polars, or an Arrow table.
        **keys: as of :class:`selmix.data.parquet.ParquetConfig` but for its ``path``: ``label="y", features="f*",
            group=..., unit=..., split=..., feedback=0.1``, ....
    Raises:
        ValueError: as of :func:`from_arrays`.
        TypeError: no frame, or an unknown key.
    """
    return frame_data(frame, **keys).load()


def frame_data(frame: Any, **keys: Any) -> ArrayData:
    """Configuration of data from a data frame; arguments and errors as of :func:`from_frame`."""
    return ArrayData("frame", **keys, source=MemoryTable(frame_table(frame), "frame"))


def frame_table(frame: Any) -> Any:
    """A data frame as an Arrow table.

    Args:
        frame: of pandas or polars, or an Arrow table.
    Raises:
        ValueError: a column holds values of several types.
        TypeError: no frame.
    """
    import pyarrow as pa

    if isinstance(frame, pa.Table):
        return frame
    if hasattr(frame, "to_arrow"):
        return frame.to_arrow()
    if not (hasattr(frame, "columns") and hasattr(frame, "iloc")):
        raise TypeError(f"frame: must be a data frame or an Arrow table, got {type(frame).__name__}")
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except pa.ArrowException as error:
        raise ValueError(f"frame: a column must hold values of one type: {error}") from error


def write_table(
    path: Path,
    inputs: Any,
    labels: Any,
    *,
    groups: Any = None,
    units: Any = None,
    split: Any = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write arrays as a Parquet file that ``data: {name: parquet}`` reads; written aside and renamed.

    Args:
        path: of the file.
        inputs: as of :func:`array_table`, as are all that follow.
        labels: n whole numbers or texts.
        groups: group of every row, or None.
        units: unit of every row, or None.
        split: split of every row, or None.
        class_names: K names, or None.
    Raises:
        ValueError: lengths differ, or inputs of another form.
        OSError: the file cannot be written.
    """
    table = array_table(inputs, labels, groups=groups, units=units, split=split, class_names=class_names)
    save_table(path, table)


def save_table(path: Path, table: Any) -> None:
    """Write an Arrow table as a Parquet file, aside and renamed.

    Raises:
        OSError: the file cannot be written.
    """
    import pyarrow.parquet as pq

    with written_aside(path) as aside:
        pq.write_table(table, aside)


def table_digest(table: Any) -> str:
    """Digest of the content of an Arrow table, 16 hexadecimal digits; the same however its rows lie in chunks."""
    import pyarrow as pa

    # Of pandas' own metadata its version would be a part.
    kept = {key: value for key, value in (table.schema.metadata or {}).items() if key != b"pandas"}
    whole = table.replace_schema_metadata(kept or None).combine_chunks()
    digest = hashlib.sha256()
    with pa.ipc.new_stream(_Hashed(digest), whole.schema) as stream:
        stream.write_table(whole)
    return digest.hexdigest()[:16]


class _Hashed(io.RawIOBase):
    """A file that keeps nothing but the digest of what is written to it."""

    def __init__(self, digest: Any) -> None:
        super().__init__()
        self._digest = digest

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self._digest.update(content)
        return memoryview(content).nbytes


def array_table(
    inputs: Any,
    labels: Any,
    *,
    groups: Any = None,
    units: Any = None,
    split: Any = None,
    class_names: Sequence[str] | None = None,
) -> Any:
    """Arrays as an Arrow table that ``data: {name: parquet}`` reads once it is a file.

    Its columns are ``label``, ``features`` (or ``image``, as PNG), and ``group``, ``unit`` and ``split`` where they are
    given; the names of classes stand in the metadata as Hugging Face writes them.

    Args:
        inputs: feature vectors, shape (n, d), or images, uint8, as of :func:`from_arrays`.
        labels: n whole numbers or texts.
        groups: as of :func:`array_data`.
        units: as of :func:`array_data`.
        split: as of :func:`array_data`.
        class_names: as of :func:`array_data`.
    Raises:
        ValueError: lengths differ, or inputs of another form.
    """
    import pyarrow as pa

    columns = _columns(labels, groups, units, split, class_names)
    values = _inputs_of(inputs, len(columns["label"]), None, None)
    if isinstance(values, Images) and values.pixels is not None:
        columns["image"] = pa.array(
            [{"bytes": _png(pixels), "path": None} for pixels in values.pixels],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
    elif isinstance(values, Tensor) and values.dim() == 2:
        columns["features"] = _lists(values)
    else:
        raise ValueError(
            f"inputs: must be feature vectors of shape (n, d) or uint8 images, got shape {tuple(values.shape)}"
        )
    return pa.table(columns).replace_schema_metadata(_schema_of(columns, class_names))


def _columns(
    labels: Any, groups: Any, units: Any, split: Any, class_names: Sequence[str] | None
) -> dict[str, Any]:
    """Arrow columns of the labels and attributes."""
    named = {"label": labels, "group": groups, "unit": units, "split": split}
    columns = {name: _column(name, values) for name, values in named.items() if values is not None}
    for name, column in columns.items():
        if len(column) != len(columns["label"]):
            raise ValueError(
                f"{name}: must have a value for each of the {len(columns['label'])} labels, got {len(column)}"
            )
    if class_names is not None:
        columns["label"] = _placed(columns["label"], class_names)
    return columns


def _column(name: str, values: Any) -> Any:
    import pyarrow as pa

    values = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    if getattr(values, "ndim", 1) != 1:
        raise ValueError(f"{name}: must have one dimension, got shape {tuple(values.shape)}")
    try:
        column = pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(f"{name}: must hold whole numbers or texts, all of one type: {error}") from error
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _placed(labels: Any, class_names: Sequence[str]) -> Any:
    """Labels as places in the names: texts by name, whole numbers as they are."""
    import pyarrow as pa

    if len(set(class_names)) != len(class_names):
        raise ValueError(f"class_names: must name each class once, got {list(class_names)}")
    plain = labels.cast(labels.type.value_type) if pa.types.is_dictionary(labels.type) else labels
    if pa.types.is_integer(plain.type):
        return plain
    place = {name: k for k, name in enumerate(class_names)}
    values = plain.to_pylist()
    unknown = sorted({str(value) for value in values if value is not None and value not in place})
    if unknown:
        raise ValueError(
            f"class_names: must name every label, {listed([repr(each) for each in unknown], 'labels')} is missing"
        )
    return pa.array([None if value is None else place[value] for value in values], pa.int64())


def _schema_of(columns: dict[str, Any], class_names: Sequence[str] | None) -> dict[str, str] | None:
    """Metadata of a table as Hugging Face's library writes and reads them; None without names of classes."""
    if class_names is None:
        return None
    features: dict[str, Any] = {"label": {"names": list(class_names), "_type": "ClassLabel"}}
    if "image" in columns:
        features["image"] = {"_type": "Image"}
    return {"huggingface": json.dumps({"info": {"features": features}})}


def _lists(values: Tensor) -> Any:
    """Feature vectors as an Arrow column of lists."""
    import pyarrow as pa

    flat = pa.array(values.contiguous().view(-1).numpy())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _inputs_of(inputs: Any, rows: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> Inputs:
    """Inputs as a float tensor, or as images where they are bytes."""
    try:
        array = inputs.detach().cpu() if isinstance(inputs, Tensor) else torch.tensor(np.asarray(inputs))
    # Of texts, and of rows of unequal length.
    except (TypeError, ValueError) as error:
        raise ValueError(f"inputs: must be numbers, as many for every row: {error}") from error
    if array.dim() < 2 or not array.numel():
        raise ValueError(f"inputs: must have a shape (n, ...) with rows, got {tuple(array.shape)}")
    if len(array) != rows:
        raise ValueError(f"inputs: must be as many as the labels, {rows}, got {len(array)}")
    if array.dtype == torch.uint8 and array.dim() in (3, 4):
        pixels = _by_channel(array)
        for key, given in (("mean", mean), ("std", std)):
            if given is not None and len(given) != pixels.shape[1]:
                raise ValueError(
                    f"{key}: must have {pixels.shape[1]} numbers, one a channel, got {len(given)}"
                )
        flat = (0.5,) if pixels.shape[1] == 1 else None
        return Images(
            pixels=pixels,
            size=pixels.shape[-1],
            mean=tuple(mean) if mean is not None else flat or IMAGENET_MEAN,
            std=tuple(std) if std is not None else flat or IMAGENET_STD,
        )
    if mean is not None or std is not None:
        raise ValueError("mean: normalises uint8 images of shape (n, H, W, C), leave it out for other inputs")
    if array.is_complex():
        raise ValueError(
            f"inputs: must be real numbers, got {array.dtype}; give real and imaginary parts as features"
        )
    floats = array.to(torch.float32)
    finite = torch.isfinite(floats.flatten(1)).all(dim=1)
    if not bool(finite.all()):
        wrong = [f"row {k}" for k in torch.nonzero(~finite).flatten().tolist()]
        raise ValueError(
            f"inputs: must be finite numbers (as float32), they are not in {listed(wrong, 'rows')}"
        )
    return floats


def _by_channel(pixels: Tensor) -> Tensor:
    """Images as shape (n, C, H, W)."""
    if pixels.dim() == 3:
        return pixels.unsqueeze(1)
    first, last = pixels.shape[1] in _CHANNELS, pixels.shape[3] in _CHANNELS
    if first == last:
        raise ValueError(
            "inputs: images must have 1 or 3 channels, in their second or last dimension, got shape "
            f"{tuple(pixels.shape)}"
        )
    return pixels if first else pixels.permute(0, 3, 1, 2).contiguous()


def _png(pixels: Tensor) -> bytes:
    """An image, shape (C, H, W), as the bytes of a PNG file, which loses nothing."""
    from PIL import Image

    array = pixels.permute(1, 2, 0).numpy()
    written = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(written, "PNG")
    return written.getvalue()
