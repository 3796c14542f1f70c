"""CSV and TSV files as the rows of a table: read block by block, every cell as the text that stands there."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from selmix.data.table_source import ROWS_AT_ONCE
from selmix.data.wording import listed

SUFFIXES = (".csv", ".tsv")


def is_text_table(path: Path) -> bool:
    """True for the names of CSV and TSV files, also under gzip."""
    return path.name.lower().removesuffix(".gz").endswith(SUFFIXES)


def delimiter_of(header: str) -> str:
    """Sign between the cells of a header: semicolons stand where a comma is the decimal sign, tabs in any .tsv."""
    return max("\t,;", key=lambda sign: (header.count(sign), sign == ","))


@dataclass(frozen=True)
class TextTable:
    """A CSV or TSV file, plain or under gzip, whose columns are texts: an identifier ``007`` stays one.

    Attributes:
        path: of the file.
    """

    path: str

    @cached_property
    def _header(self) -> tuple[str, list[str]]:
        """Delimiter and names of the columns.

        Raises:
            ValueError: it is no such file, or its first line does not name the columns.
        """
        try:
            binary: Any = gzip.open(self.path) if self.path.endswith(".gz") else Path(self.path).open("rb")  # noqa: SIM115
            # Excel begins its files with a byte order mark.
            with io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as lines:
                header = next(iter(lines), "")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.path}: must be text in UTF-8: {error.reason}; save it as UTF-8"
            ) from error
        except (OSError, EOFError) as error:
            raise ValueError(f"{self.path}: must be a CSV or TSV file: {error}") from error
        delimiter = delimiter_of(header)
        names = next(csv.reader([header], delimiter=delimiter), [])
        if not names:
            raise ValueError(f"{self.path}: must have a line with the names of the columns, got none")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(
                f"{self.path}: line 1: every column must have a name of its own, got {twice[0]!r} twice"
            )
        return delimiter, names

    @property
    def schema(self) -> Any:
        """Arrow schema: every column is a text."""
        import pyarrow as pa

        return pa.schema([(name, pa.string()) for name in self._header[1]])

    @property
    def columns(self) -> dict[str, Any]:
        """Name -> Arrow type."""
        return dict(zip(self.schema.names, self.schema.types, strict=True))

    @property
    def num_rows(self) -> int:
        """Rows of the file, which is read for it."""
        return sum(batch.num_rows for _, batch in self.batches(self._header[1][:1]))

    @property
    def stamp(self) -> tuple[str, int, int]:
        """Name, time of change and size: another stamp is another content."""
        status = Path(self.path).stat()
        return self.path, status.st_mtime_ns, status.st_size

    def check(self, names: Sequence[str]) -> None:
        """Check that there are these columns; raises ValueError where one is missing."""
        held = self._header[1]
        if missing := [name for name in names if name not in held]:
            raise ValueError(
                f"{self.path}: must have a column {missing[0]}, got {listed(held, 'columns', 12)}"
            )

    def read(self, names: Sequence[str]) -> Any:
        """Some columns as an Arrow table; raises as :meth:`check`."""
        import pyarrow as pa

        chosen = list(dict.fromkeys(names))
        schema = pa.schema([(name, pa.string()) for name in chosen])
        return pa.Table.from_batches([batch for _, batch in self.batches(chosen)], schema)

    def batches(self, names: Sequence[str], size: int = ROWS_AT_ONCE) -> Iterator[tuple[int, Any]]:
        """Columns batch by batch, each with the number of its first row; an empty cell is a missing one.

        Raises:
            ValueError: a column is missing, or a line has more or fewer cells than the header; with its number.
        """
        import pyarrow as pa
        from pyarrow import csv as pacsv

        self.check(names)
        delimiter, held = self._header
        ragged: list[Any] = []

        def note(row: Any) -> str:
            ragged.append(row)
            return "error"

        try:
            reader = pacsv.open_csv(
                pa.input_stream(self.path, compression="gzip" if self.path.endswith(".gz") else None),
                # Without threads, which would not know the numbers of the lines.
                read_options=pacsv.ReadOptions(use_threads=False),
                parse_options=pacsv.ParseOptions(
                    delimiter=delimiter, newlines_in_values=True, invalid_row_handler=note
                ),
                # A class may be named NA: only an empty cell is missing.
                convert_options=pacsv.ConvertOptions(
                    include_columns=list(names), column_types=dict.fromkeys(held, pa.string()), null_values=[""],
                    strings_can_be_null=True, quoted_strings_can_be_null=False,
                ),
            )  # fmt: skip
            start = 0
            for block in reader:
                for first in range(0, block.num_rows, size):
                    batch = block.slice(first, size)
                    yield start, batch
                    start += batch.num_rows
        except pa.ArrowException as error:
            if ragged:
                row = ragged[0]
                where = "" if row.number is None else f" in line {row.number}"
                raise ValueError(
                    f"{self.path}: must have {row.expected_columns} cells in every line as the header, got "
                    f"{row.actual_columns}{where}: {row.text[:60]!r}"
                ) from error
            raise ValueError(f"{self.path}: must be a CSV or TSV file in UTF-8: {error}") from error

    def row(self, number: int) -> str:
        """Words for a row, counted from 0 without the header."""
        return f"row {number}"

    def homes(self, number: int) -> list[Path]:
        """Folder of the file."""
        return [Path(self.path).parent]
