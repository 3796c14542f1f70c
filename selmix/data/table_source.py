"""Sources of the rows of a table: Parquet files, text files, or a table in memory; and some rows of one."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from selmix.data.wording import listed

# Bounds what is decoded beside the tensor that it goes to.
ROWS_AT_ONCE = 4096


class TableSource(Hashable, Protocol):
    """A table of n rows, read by columns."""

    @property
    def path(self) -> str:
        """Name of the table, for messages."""

    @property
    def num_rows(self) -> int: ...

    @property
    def schema(self) -> Any:
        """Arrow schema with the metadata of the file, or of the first of several."""

    @property
    def columns(self) -> Mapping[str, Any]:
        """Name -> Arrow type, in the order of the table."""

    @property
    def stamp(self) -> Hashable:
        """Another stamp is another content."""

    def check(self, names: Sequence[str]) -> None:
        """Check that there are these columns.

        Raises:
            ValueError: one is missing.
        """

    def read(self, names: Sequence[str]) -> Any:
        """Read some small columns as an Arrow table; raises as :meth:`check`."""

    def batches(self, names: Sequence[str], size: int = ROWS_AT_ONCE) -> Iterator[tuple[int, Any]]:
        """Read columns batch by batch: number of the first row, and an Arrow record batch of at most ``size`` rows."""

    def row(self, number: int) -> str:
        """Words for a row, counted from 0."""

    def homes(self, number: int) -> Sequence[Path]:
        """Folders from which a path in a row is looked up, in this order."""


@dataclass(frozen=True, eq=False)
class BatchOfRows:
    """Some rows of a table, held in memory, as a table of their own whose rows keep their numbers in the whole.

    Attributes:
        whole: the table that they come from.
        start: number of the first of them there.
        batch: the rows, an Arrow record batch.
    """

    whole: TableSource
    start: int
    batch: Any

    @property
    def path(self) -> str:
        """Name of the whole table."""
        return self.whole.path

    @property
    def num_rows(self) -> int:
        return int(self.batch.num_rows)

    @property
    def schema(self) -> Any:
        """Arrow schema of the rows."""
        return self.batch.schema

    @property
    def columns(self) -> dict[str, Any]:
        """Name -> Arrow type."""
        return dict(zip(self.schema.names, self.schema.types, strict=True))

    @property
    def stamp(self) -> int:
        return id(self.batch)

    def check(self, names: Sequence[str]) -> None:
        """Check that there are these columns; raises ValueError where one is missing."""
        if missing := [name for name in names if name not in self.schema.names]:
            held = listed(self.schema.names, "columns", 12)
            raise ValueError(f"{self.path}: must have a column {missing[0]}, got {held}")

    def read(self, names: Sequence[str]) -> Any:
        """Some columns as an Arrow table; raises as :meth:`check`."""
        import pyarrow as pa

        self.check(names)
        return pa.Table.from_batches([self.batch.select(list(dict.fromkeys(names)))])

    def batches(self, names: Sequence[str], size: int = ROWS_AT_ONCE) -> Iterator[tuple[int, Any]]:
        """Columns batch by batch, each with the number of its first row among these."""
        self.check(names)
        chosen = self.batch.select(list(names))
        for start in range(0, self.num_rows, size):
            yield start, chosen.slice(start, size)

    def row(self, number: int) -> str:
        """Words for a row, counted from 0 among these."""
        return self.whole.row(self.start + number)

    def homes(self, number: int) -> Sequence[Path]:
        """Folders from which a path in a row is looked up."""
        return self.whole.homes(self.start + number)

    def one(self, number: int) -> BatchOfRows:
        """One of these rows, counted from 0, as a table of its own."""
        return BatchOfRows(self.whole, self.start + number, self.batch.slice(number, 1))
