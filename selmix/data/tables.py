"""Tables of the user's own as tensors: feature vectors, from Parquet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Bounds what is decoded beside the tensor that it goes to.
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class FeatureTable:
    """Feature vectors and labels from a file.

    Attributes:
        features: shape (n, d), float32.
        labels: shape (n,), int64.
        class_names: K texts, sorted.
        split: name of each row's split, n texts; None where there is no such column.
        groups: shape (n,), int64; None where there are no groups.
        group_names: A texts, sorted; empty where there are no groups.
    """

    features: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    split: tuple[str, ...] | None
    groups: Tensor | None = None
    group_names: tuple[str, ...] = ()


def read_features(
    path: Path, label: str, features: str, split: str | None, group: str | None = None
) -> FeatureTable:
    """Read columns of a Parquet file as tensors; no other column is read.

    Args:
        path: of the file.
        label: column of the labels, whole numbers or texts.
        features: column of the features, lists of d numbers.
        split: column with the name of each row's split, or None.
        group: column of the groups, whole numbers or texts, or None.
    Raises:
        ValueError: no such file, not Parquet, or a column that is missing or of another form.
    """
    table = _read(path, [label, *(name for name in (split, group) if name is not None)], also=features)
    _check_complete(path, table)
    values = _vectors(path, features, table.num_rows)
    labels, names = _encoded(table[label])
    if len(names) < 2:
        raise ValueError(f"{path}: {label} must name at least two classes, got {list(names)}")
    parts = None if split is None else tuple(str(value) for value in table[split].to_pylist())
    if group is None:
        return FeatureTable(values, labels, names, parts)
    return FeatureTable(values, labels, names, parts, *_groups(path, group, table[group]))


def _vectors(path: Path, name: str, rows: int) -> Tensor:
    """Read a column of lists as one tensor, shape (n, d), float32, batch by batch, so that it is held once only."""
    # Imported where a table is read: data of other kinds do without pyarrow.
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    values = torch.empty(rows, 0)
    lengths: set[int] = set()
    start = 0
    # Read ahead or in threads, pyarrow would hold more of the column beside the tensor.
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[name], use_threads=False):
            column = batch.column(0)
            kind = column.type
            if not (
                pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)
            ):
                raise ValueError(f"{path}: {name} must hold lists of numbers, got {kind}")
            if column.null_count:
                raise ValueError(f"{path}: values must be given in every row, missing in {name}")
            flat = column.flatten()
            if not (pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type)) or flat.null_count:
                raise ValueError(f"{path}: {name} must hold lists of numbers, got lists of {flat.type}")
            lengths |= set(pc.list_value_length(column).unique().to_pylist())
            # Rows of another length are reported below, with all lengths that occur.
            if len(lengths) == 1 and (width := max(lengths)):
                # The width is known from the first batch only.
                if not values.shape[1]:
                    values = torch.empty(rows, width)
                part = torch.tensor(flat.to_numpy(zero_copy_only=False)).view(-1, width)
                if not bool(torch.isfinite(part).all()):
                    raise ValueError(f"{path}: {name} must be finite numbers")
                values[start : start + len(part)] = part
            start += len(column)
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"{path}: {name} must have as many numbers in every row, got {sorted(lengths)[:4]}")
    return values


def _groups(path: Path, name: str, column: Any) -> tuple[Tensor, tuple[str, ...]]:
    groups, names = _encoded(column)
    if len(names) < 2:
        raise ValueError(f"{path}: {name} must name at least two groups, got {list(names)}")
    return groups, names


def _encoded(column: Any) -> tuple[Tensor, tuple[str, ...]]:
    """Place of each row among the sorted values of a column, and these values as texts."""
    index, values = _indexed(column)
    # By value, not by text: 10 comes after 9.
    order = sorted(range(len(values)), key=lambda k: values[k])
    place = torch.empty(len(values), dtype=torch.int64)
    place[torch.tensor(order)] = torch.arange(len(values))
    return place[index], tuple(str(values[k]) for k in order)


def _indexed(column: Any) -> tuple[Tensor, list[Any]]:
    """Place of each row's value among the distinct values of a column, shape (n,), and these, the first one first."""
    # Chunks combined first: a chunked array has neither ``dictionary`` nor ``indices``.
    encoded = column.combine_chunks().dictionary_encode()
    # A copy, as torch warns of memory that it may not write to.
    index = torch.from_numpy(encoded.indices.to_numpy(zero_copy_only=False).copy()).long()
    return index, encoded.dictionary.to_pylist()


def _columns(path: Path) -> list[str]:
    """Names of the file's columns, in their order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise ValueError(f"{path}: must be a Parquet file, there is none")
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: must be a Parquet file: {error}") from error


def _read(path: Path, columns: list[str], also: str | None = None) -> Any:
    """Read the file's ``columns`` as a table; ``also`` must be there too, but is not read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Checked first: pyarrow's own message lists fields of its own beside those of the file.
    held = _columns(path)
    missing = [name for name in (*columns, *([also] if also is not None else [])) if name not in held]
    if missing:
        raise ValueError(f"{path}: must have a column {missing[0]}, got {', '.join(held)}")
    try:
        return pq.read_table(path, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: must be a Parquet file: {error}") from error


def _check_complete(path: Path, table: Any) -> None:
    if table.num_rows == 0:
        raise ValueError(f"{path}: must have rows, got none")
    incomplete = [name for name in table.column_names if table[name].null_count]
    if incomplete:
        raise ValueError(f"{path}: values must be given in every row, missing in {', '.join(incomplete)}")
