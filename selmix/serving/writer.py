"""Files of predictions, Parquet or CSV, written batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PREDICTED = "predicted"
"""Column of the predicted classes, by name."""

PREFIX = "probability_"
"""Beginning of the names of the columns with the probability of one class."""

SUFFIXES = (".parquet", ".pq", ".csv")
# Cells of a row group: a file of many small ones is slow to read.
_CELLS_AT_ONCE = 1 << 20


def output_columns(class_names: Sequence[str]) -> list[str]:
    """Names of the columns of predictions: the class, then the probability of each."""
    return [PREDICTED, *(f"{PREFIX}{name}" for name in class_names)]


class PredictionWriter:
    """Writer of a file of predictions; a context, in which :meth:`write` takes one batch after another.

    Args:
        path: of the file, whose content this is to be.
        as_csv: True for CSV, else Parquet.
        kept: Arrow schema of the columns that stand before the predictions.
        class_names: K texts.
    Raises:
        ValueError: a column that is kept has the name of one of the predictions.
    """

    def __init__(self, path: Path, as_csv: bool, kept: Any, class_names: Sequence[str]) -> None:
        import pyarrow as pa

        self._as_csv, self._names = as_csv, output_columns(class_names)
        if taken := [name for name in kept.names if name in self._names]:
            raise ValueError(
                f"the column {taken[0]} has the name of a column of the predictions; rename it, or name the columns to "
                "keep with --keep"
            )
        kinds = [pa.string(), *[pa.float32()] * len(class_names)]
        before = [
            (name, _plain(kind) if as_csv else kind)
            for name, kind in zip(kept.names, kept.types, strict=True)
        ]
        self._schema = pa.schema([*before, *zip(self._names, kinds, strict=True)])
        self._path = path
        self._waiting: list[Any] = []
        self._cells = 0

    def __enter__(self) -> Self:
        import pyarrow.parquet as pq
        from pyarrow import csv as pacsv

        self._file: Any = (
            pacsv.CSVWriter(self._path, self._schema)
            if self._as_csv
            else pq.ParquetWriter(self._path, self._schema)
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._file.close()

    def write(self, kept: Any, predicted: Any, probabilities: Any) -> None:
        """Add rows.

        Args:
            kept: Arrow record batch of m rows.
            predicted: Arrow array of m texts; missing in rows that could not be predicted.
            probabilities: K Arrow arrays of m numbers each, missing in the same rows.
        """
        import pyarrow as pa

        columns = [column.cast(field.type) for column, field in zip(kept.columns, self._schema, strict=False)]
        batch = pa.RecordBatch.from_arrays([*columns, predicted, *probabilities], schema=self._schema)
        self._waiting.append(batch)
        self._cells += batch.num_rows * batch.num_columns
        if self._cells >= _CELLS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            self._file.write_table(pa.Table.from_batches(self._waiting).combine_chunks())
        self._waiting, self._cells = [], 0


def _plain(kind: Any) -> Any:
    """Type of a column that stands before the predictions in a CSV file: numbers as they are, all else as texts."""
    import pyarrow as pa

    types = pa.types
    return kind if types.is_integer(kind) or types.is_floating(kind) else pa.string()
