"""Columns of a table as tensors: labels and groups by value, feature vectors from lists or from many columns."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selmix.data.table_source import TableSource
from selmix.data.wording import listed

Row = Callable[[int], str]
"""Words for a row by its number, counted from 0."""


@dataclass(frozen=True)
class Values:
    """A column by its distinct values.

    Attributes:
        index: place of each row's value among the names, shape (n,), int64.
        names: the distinct values as texts, in the order of the values: 10 comes after 9.
        values: the distinct values themselves, in that order.
    """

    index: Tensor
    names: tuple[str, ...]
    values: tuple[Any, ...]


def values_of(column: Any, name: str, where: str, row: Row) -> Values:
    """Distinct values of an Arrow column, and the place of each row's among them.

    Args:
        column: chunked array of whole numbers, texts or the like; dictionaries and large texts too.
        name: of the column, for messages.
        where: the table, for messages.
        row: words for a row.
    Raises:
        ValueError: a row has no value, or the column holds lists or structs.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = _plain(column, name, where)
    gaps = pc.is_null(column, nan_is_null=True)
    if pc.any(gaps).as_py():
        rows = np.flatnonzero(gaps.to_numpy()).tolist()
        shown = listed([row(k) for k in rows], "rows")
        raise ValueError(f"{where}: values must be given in every row, missing in {name}: {shown}")
    # Each value once: a table may have millions of rows.
    distinct = pc.unique(column)
    if isinstance(distinct, pa.ChunkedArray):
        distinct = distinct.combine_chunks()
    index = torch.from_numpy(pc.index_in(column, value_set=distinct).to_numpy().astype(np.int64))
    values = distinct.to_pylist()
    order = sorted(range(len(values)), key=lambda k: values[k])
    place = torch.empty(len(values), dtype=torch.int64)
    place[torch.tensor(order, dtype=torch.int64)] = torch.arange(len(values))
    ordered = tuple(values[k] for k in order)
    return Values(place[index], tuple(str(value) for value in ordered), ordered)


def _plain(column: Any, name: str, where: str) -> Any:
    """A column without dictionaries, whose unused entries are no values, and with texts for bytes."""
    import pyarrow as pa

    types, kind = pa.types, column.type
    if types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if types.is_nested(kind):
        raise ValueError(f"{where}: {name} must hold whole numbers or texts, got {kind}")
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        # Some writers mark no column as text.
        try:
            return column.cast(pa.large_binary()).cast(pa.large_string())
        except pa.ArrowException as error:
            raise ValueError(f"{where}: {name} must hold whole numbers or texts, got {kind}") from error
    return column


def with_label_names(
    labels: Values, schema: Any, name: str, where: str, row: Row
) -> tuple[tuple[str, ...], str]:
    """Names of the classes, those of Hugging Face's ``ClassLabel`` where the file has them.

    Args:
        labels: the column.
        schema: Arrow schema of the file.
        name: of the column.
        where: the table, for messages.
        row: words for a row.
    Returns:
        K names in the order of the labels, and what was done, empty where the file has no such names. Names that no
        row has are left out: no metric is defined on a class without samples.
    Raises:
        ValueError: a label is no place in the list of names.
    """
    known = label_names(schema, name)
    if known is None or not all(isinstance(value, int) for value in labels.values):
        return labels.names, ""
    for place, value in enumerate(labels.values):
        if not 0 <= value < len(known):
            first = int(torch.nonzero(labels.index == place)[0])
            hint = " (-1 marks a row without a label); leave such rows out" if value == -1 else ""
            raise ValueError(
                f"{where}: {name} must be a place in the file's {len(known)} class names, 0 to {len(known) - 1}, got "
                f"{value} in {row(first)}{hint}"
            )
    names = tuple(known[value] for value in labels.values)
    if len(set(names)) < len(names):
        # Two labels under one name could not be told apart in any table of results.
        return (
            labels.names,
            f"{name}: the file's ClassLabel names are not distinct, the numbers are the names",
        )
    unused = [known[k] for k in range(len(known)) if k not in set(labels.values)]
    rest = f"; no row has {listed(unused, 'of them')}" if unused else ""
    return names, f"{name}: class names are those of the file's ClassLabel{rest}"


def label_names(schema: Any, column: str) -> list[str] | None:
    """Names of Hugging Face's ``ClassLabel`` in the metadata of an Arrow schema; None where there are none."""
    feature = _hugging_face(schema).get(column)
    names = (
        feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    )
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        return None
    return names


def is_image_feature(schema: Any, column: str) -> bool:
    """True if Hugging Face's metadata in an Arrow schema say that a column holds images."""
    feature = _hugging_face(schema).get(column)
    return isinstance(feature, dict) and feature.get("_type") == "Image"


def _hugging_face(schema: Any) -> Mapping[str, Any]:
    """Hugging Face's features by column, as its library writes them beside the schema."""
    try:
        stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = stored.get("info", {}).get("features", {})
    # Another program's metadata under that name is no reason to refuse the table.
    except (ValueError, AttributeError):
        return {}
    return features if isinstance(features, dict) else {}


def matched_columns(
    held: Sequence[str], wanted: str | Sequence[str], others: Sequence[str], where: str
) -> str | list[str]:
    """Columns that ``features`` names: one of lists, or those that a list names or a pattern such as ``f*`` matches.

    Args:
        held: columns of the table, in their order.
        wanted: name, pattern or names.
        others: columns with another part (label, split, group, ...), which no pattern matches.
        where: the table, for messages.
    Returns:
        A name as it is; columns of numbers: of a pattern in the order of the table, of a list in the order of the list.
    Raises:
        ValueError: a column is missing, named twice, or a pattern matches none.
    """
    if isinstance(wanted, str):
        # A column whose own name has such a sign is that column.
        if wanted in held:
            return wanted
        names = [name for name in held if fnmatch.fnmatchcase(name, wanted) and name not in others]
        if not names and any(sign in wanted for sign in "*?["):
            raise ValueError(
                f"{where}: features {wanted!r} must match a column, got {listed(list(held), 'columns', 12)}"
            )
        names = names or [wanted]
    else:
        names = list(wanted)
    missing = [name for name in names if name not in held]
    if missing:
        raise ValueError(f"{where}: must have a column {missing[0]}, got {listed(list(held), 'columns', 12)}")
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise ValueError(f"{where}: features must name each column once, got {twice[0]} again")
    return names


def width_of(files: TableSource, names: str | Sequence[str]) -> int:
    """Number of features d, from the types of the columns and at most the first rows.

    Args:
        files: the table.
        names: as of :func:`vectors`.
    Raises:
        ValueError: the column holds no lists of numbers.
    """
    import pyarrow as pa

    if not isinstance(names, str):
        return len(names)
    if pa.types.is_fixed_size_list(kind := files.columns[names]):
        return int(kind.list_size)
    for _, batch in files.batches([names]):
        if batch.num_rows:
            return int(_lists(files, names, batch.column(0).slice(0, 1), 0, None).shape[1])
    raise ValueError(f"{files.path}: must have rows, got none")


def vectors(files: TableSource, names: str | Sequence[str]) -> Tensor:
    """Read features as one tensor, shape (n, d), float32, batch by batch, so that it is held once only.

    Args:
        files: the table.
        names: a column of lists of d numbers, or a list of d columns of numbers.
    Raises:
        ValueError: a value is missing, no number, not finite, or too large for float32; rows differ in their length.
            The message names the row.
    """
    values = torch.empty(files.num_rows, 0)
    for start, batch in files.batches([names] if isinstance(names, str) else names):
        if not batch.num_rows:
            continue
        if isinstance(names, str):
            part = _lists(files, names, batch.column(0), start, values.shape[1] or None)
        else:
            part = np.empty((batch.num_rows, len(names)), np.float32)
            for k, name in enumerate(names):
                part[:, k] = _numbers(files, name, batch.column(name), start)
        # The width is known from the first batch only.
        if not values.shape[1]:
            values = torch.empty(files.num_rows, part.shape[1])
        values[start : start + len(part)] = torch.from_numpy(part)
    return values


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _lists(files: TableSource, name: str, column: Any, start: int, width: int | None) -> np.ndarray[Any, Any]:
    """A column of lists as an array, shape (m, d), float32; ``width`` is the d of earlier rows."""
    import pyarrow.compute as pc

    where = files.path
    # Of a tensor for each row the lists that it is stored as.
    column = getattr(column, "storage", column)
    if not _is_list(column.type):
        raise ValueError(f"{where}: {name} must hold lists of numbers, got {column.type}")
    if column.null_count:
        gap = files.row(start + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0]))
        raise ValueError(f"{where}: values must be given in every row, missing in {name}: {gap} is the first")
    flat = column.flatten()
    if not _is_number(flat.type):
        raise ValueError(f"{where}: {name} must hold lists of numbers, got lists of {flat.type}")
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    expected = int(lengths[0]) if width is None else width
    if (other := np.flatnonzero(lengths != expected)).size or expected == 0:
        found = sorted({expected, *(int(each) for each in lengths[other][:1])})
        raise ValueError(
            f"{where}: {name} must have as many numbers in every row, got {found}"
            + (f": {lengths[other[0]]} in {files.row(start + int(other[0]))}" if other.size else "")
        )
    if flat.null_count:
        first = int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0]) // expected
        raise ValueError(
            f"{where}: {name} must hold lists of numbers, got lists of {flat.type} with a value missing in "
            f"{files.row(start + first)}"
        )
    return _finite(
        flat, name, lambda k: f"{files.row(start + k // expected)}, place {k % expected}", where
    ).reshape(-1, expected)


def _numbers(files: TableSource, name: str, column: Any, start: int) -> np.ndarray[Any, Any]:
    """A column of numbers or truth values, shape (m,), float32."""
    import pyarrow as pa

    if column.null_count:
        gap = files.row(start + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0]))
        raise ValueError(
            f"{files.path}: values must be given in every row, missing in {name}: {gap} is the first"
        )
    kind = column.type
    # One-hot columns often are truth values.
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif not _is_number(kind):
        raise ValueError(f"{files.path}: {name} must hold numbers, or lists of numbers, got {kind}")
    return _finite(column, name, lambda k: files.row(start + k), files.path)


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))


def _finite(column: Any, name: str, place: Row, where: str) -> np.ndarray[Any, Any]:
    """Numbers as float32.

    Args:
        column: Arrow array of numbers without gaps.
        name: of the column.
        place: words for the place of a number.
        where: the table, for messages.
    Raises:
        ValueError: a number is NaN or infinite, as it is or as float32.
    """
    import pyarrow as pa

    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    numbers = column.to_numpy(zero_copy_only=False)
    # A number beyond float32 becomes infinite, which is reported with its place.
    with np.errstate(over="ignore"):
        values: np.ndarray[Any, Any] = numbers.astype(np.float32)
    if not (finite := np.isfinite(values)).all():
        first = int(np.flatnonzero(~finite)[0])
        raise ValueError(
            f"{where}: {name} must be finite numbers (as float32), got {numbers[first]} in {place(first)}"
        )
    return values
