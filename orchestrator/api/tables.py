"""Trials and rows of a sweep as Arrow tables: a column for every setting, and three for every metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.documents import Document, to_document
from orchestrator.records.types import Metrics


def table_of(rows: Sequence[Any], columns: Sequence[str]) -> Any:
    """Dataclasses as an Arrow table, a row each.

    Args:
        rows: of one class; a nested value is a column with a dot, lists stay lists.
        columns: names of its fields, for a table without rows.
    """
    import pyarrow as pa

    flat = [_flat(to_document(row)) for row in rows]
    names = list(dict.fromkeys([*(name for row in flat for name in row), *([] if flat else columns)]))
    return pa.table({name: _column([row.get(name) for row in flat]) for name in names})


def as_wanted(table: Any, as_frame: bool) -> Any:
    """The table, or the same as a data frame of pandas."""
    return table.to_pandas() if as_frame else table


def with_metrics(table: Any, select: Sequence[Metrics]) -> Any:
    """The table with columns of metrics on select, with their intervals.

    Args:
        table: n rows.
        select: metrics of each row.
    """
    each = [_metric_columns(_plain(metrics)) for metrics in select]
    for name in dict.fromkeys(name for row in each for name in row):
        table = table.append_column(name, _column([row.get(name) for row in each]))
    return table


def _plain(metrics: Metrics) -> Document:
    """Metrics as plain values."""
    return {key: to_document(figure) for key, figure in metrics.items()}


def _flat(row: Document) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key == "select":
            flat |= _metric_columns(value)
        elif isinstance(value, Mapping):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat


def _metric_columns(metrics: Mapping[str, Document]) -> dict[str, float]:
    """``select.min_recall``, ``select.min_recall.low`` and ``.high``."""
    return {
        f"select.{key}{end}": figure[part]
        for key, figure in metrics.items()
        for part, end in (("value", ""), ("low", ".low"), ("high", ".high"))
    }


def _column(values: Sequence[Any]) -> Any:
    """An Arrow column: of one type where the values have one, numbers together as floats, else as texts."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and len(kinds) > 1:
        return pa.array(values, pa.float64())
    if len(kinds) > 1:
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    return pa.array(values)
