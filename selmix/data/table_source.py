"""Sources of the rows of a table: Parquet files, or a table in memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

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
