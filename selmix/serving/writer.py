"""Files of predictions, Parquet or CSV, written batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

PREDICTED = "predicted"
"""Column of the predicted classes, by name."""

PREFIX = "probability_"
"""Beginning of the names of the columns with the probability of one class."""

SUFFIXES = (".parquet", ".pq", ".csv")
# Numbers of a row group: a file of many small ones is slow to read.
_NUMBERS_AT_ONCE, _BATCHES_AT_ONCE = 1 << 20, 32


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
        self._path, self._classes = path, list(class_names)
        # Held once and filled again and again: small arrays that outlive a batch would lie in the holes that its inputs
        # leave, and the next batch's would not fit there any more.
        rows = max(1, _NUMBERS_AT_ONCE // (len(self._classes) + 1))
        self._places = np.zeros(rows, np.int64)
        self._wide = np.zeros((rows, len(self._classes)), np.float32)
        self._kept: list[Any] = []
        self._filled = 0

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

    def write(self, kept: Any, places: NDArray[np.int64], probabilities: NDArray[np.float32]) -> None:
        """Add rows.

        Args:
            kept: Arrow record batch of m rows.
            places: of the predicted classes, shape (m,); -1 in rows that could not be predicted.
            probabilities: shape (m, K); not read in these rows.
        """
        done = 0
        while done < len(places):
            take = min(len(places) - done, len(self._places) - self._filled)
            rows = slice(self._filled, self._filled + take)
            self._places[rows] = places[done : done + take]
            self._wide[rows] = probabilities[done : done + take]
            self._kept.append(kept.slice(done, take))
            self._filled, done = self._filled + take, done + take
            if self._filled == len(self._places) or len(self._kept) == _BATCHES_AT_ONCE:
                self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._filled:
            return
        kept = pa.Table.from_batches(self._kept)
        columns = [column.cast(field.type) for column, field in zip(kept.columns, self._schema, strict=False)]
        columns += prediction_columns(self._places[: self._filled], self._wide[: self._filled], self._classes)
        self._file.write_table(pa.Table.from_arrays(columns, schema=self._schema).combine_chunks())
        self._kept, self._filled = [], 0


def prediction_columns(
    places: NDArray[np.int64], probabilities: NDArray[np.float32], class_names: Sequence[str]
) -> list[Any]:
    """Arrow arrays of predictions: the class by name, then the probability of each.

    Args:
        places: of the predicted classes, shape (m,); -1 in rows that could not be predicted, where all are missing.
        probabilities: shape (m, K).
        class_names: K texts.
    """
    import pyarrow as pa

    missing = places < 0
    names = pa.array(list(class_names), pa.string()).take(pa.array(places, mask=missing))
    return [names, *(pa.array(np.ascontiguousarray(column), mask=missing) for column in probabilities.T)]


def _plain(kind: Any) -> Any:
    """Type of a column that stands before the predictions in a CSV file: numbers as they are, all else as texts."""
    import pyarrow as pa

    types = pa.types
    return kind if types.is_integer(kind) or types.is_floating(kind) else pa.string()
