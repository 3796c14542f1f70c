"""Parquet files that are read as one table: one file, those of a folder, or those that a pattern matches."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from selmix.data.table_source import ROWS_AT_ONCE
from selmix.data.wording import listed

SUFFIXES = (".parquet", ".pq")
_BUFFER = 1 << 16  # bytes of each column
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class ParquetFiles:
    """Files of one table, in the order of their names; their rows follow each other.

    Columns may also be written into the names of folders, ``split=train/part-0.parquet``, as pandas and Spark do with
    ``partition_cols``.

    Attributes:
        path: file, folder or pattern, as it was given.
        files: at least one.
    """

    path: str
    files: tuple[Path, ...]

    @cached_property
    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Name, time of change and size of every file: another stamp is another content."""
        each = [(str(file), file.stat()) for file in self.files]
        return tuple((name, status.st_mtime_ns, status.st_size) for name, status in each)

    @cached_property
    def schemas(self) -> tuple[Any, ...]:
        """Arrow schema of every file, from its footer.

        Raises:
            ValueError: a file is no Parquet file.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        schemas = []
        for file in self.files:
            try:
                schemas.append(pq.read_schema(file))
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{file}: must be a Parquet file: {error}") from error
        return tuple(schemas)

    @property
    def schema(self) -> Any:
        """Arrow schema of the first file."""
        return self.schemas[0]

    @cached_property
    def columns(self) -> dict[str, Any]:
        """Name -> Arrow type of the first file's columns, in their order; those of the folders' names last.

        Raises:
            ValueError: a file is no Parquet file.
        """
        import pyarrow as pa

        schema = self.schemas[0]
        return dict(zip(schema.names, schema.types, strict=True)) | dict.fromkeys(
            self._partitions[0], pa.string()
        )

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Rows of each file, from its footer."""
        import pyarrow.parquet as pq

        # Schemas first: they report a file that is none.
        return tuple(
            pq.read_metadata(file).num_rows for file, _ in zip(self.files, self.schemas, strict=True)
        )

    @property
    def num_rows(self) -> int:
        return sum(self.rows)

    @cached_property
    def _partitions(self) -> tuple[dict[str, str | None], ...]:
        """Columns that the names of folders below the top give each file."""
        if not Path(self.path).is_dir():
            return tuple({} for _ in self.files)
        each = []
        for file in self.files:
            parts = [part.partition("=") for part in file.relative_to(self.path).parts[:-1] if "=" in part]
            each.append({key: None if value == _NO_VALUE else unquote(value) for key, _, value in parts})
        return tuple(each)

    def check(self, names: Sequence[str]) -> None:
        """Check that every file has these columns.

        Raises:
            ValueError: one lacks a column.
        """
        for file, schema, extra in zip(self.files, self.schemas, self._partitions, strict=True):
            held = [*schema.names, *extra]
            missing = [name for name in names if name not in held]
            if missing:
                raise ValueError(
                    f"{file}: must have a column {missing[0]}, got {listed(held, 'columns', 12)}"
                )

    def read(self, names: Sequence[str]) -> Any:
        """Read some columns of all files as one Arrow table.

        Args:
            names: of columns that are small; a column of vectors is read by :meth:`batches`.
        Raises:
            ValueError: a column is missing, has another type in another file, or a file is damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.check(names)
        tables = []
        for file, rows, extra in zip(self.files, self.rows, self._partitions, strict=True):
            inside = list(dict.fromkeys(name for name in names if name not in extra))
            try:
                with pq.ParquetFile(file) as opened:
                    table = opened.read(columns=inside)
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{file}: must be a Parquet file: {error}") from error
            columns = {name: table[name] for name in inside}
            for name in names:
                if name in extra:
                    columns[name] = pa.chunked_array([pa.array([self._value(name, extra[name])] * rows)])
            tables.append(pa.table(columns))
        try:
            return pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException as error:
            raise ValueError(f"{self.path}: columns must have one type in all files: {error}") from error

    def _value(self, key: str, text: str | None) -> int | str | None:
        # One type for all files: whole numbers only if every folder's name is one.
        texts = [each.get(key) for each in self._partitions]
        whole = all(each is None or re.fullmatch(r"-?\d{1,18}", each) for each in texts)
        return int(text) if whole and text is not None else text

    def batches(self, names: Sequence[str], size: int = ROWS_AT_ONCE) -> Iterator[tuple[int, Any]]:
        """Read columns of all files batch by batch.

        Args:
            names: of columns inside the files.
            size: largest number of rows of a batch.
        Yields:
            Number of the first row, and an Arrow record batch.
        Raises:
            ValueError: a column is missing, or a file is damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.check(names)
        start = 0
        for file in self.files:
            try:
                # Read ahead or in threads, pyarrow would hold more of the column beside the tensor; without a buffer it
                # would hold the columns of a whole row group, which in some files is the whole file.
                with pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER) as opened:
                    for batch in opened.iter_batches(batch_size=size, columns=list(names), use_threads=False):
                        yield start, batch
                        start += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{file}: must be a Parquet file: {error}") from error

    def row(self, number: int) -> str:
        """A row for messages, counted from 0, with its file where there are several."""
        file, inside = self._place(number)
        return f"row {inside}" if len(self.files) == 1 else f"row {inside} of {file.name}"

    def homes(self, number: int) -> list[Path]:
        """Folder of the row's file, and that of all files."""
        top = [Path(self.path)] if Path(self.path).is_dir() else []
        return list(dict.fromkeys([self._place(number)[0].parent, *top]))

    def _place(self, number: int) -> tuple[Path, int]:
        """File of a row, and its number there."""
        for file, rows in zip(self.files, self.rows, strict=True):
            if number < rows:
                return file, number
            number -= rows
        raise IndexError(f"the table has {self.num_rows} rows, got a number beyond them")


def find_files(path: str) -> ParquetFiles:
    """The Parquet files that a path names.

    Args:
        path: a file, a folder (all ``*.parquet`` and ``*.pq`` below it; names that begin with ``.`` or ``_`` are left
            out), or a pattern such as ``data/train-*.parquet``.
    Raises:
        ValueError: there is none.
    """
    place = Path(path)
    if place.is_file():
        return ParquetFiles(path, (place,))
    if place.is_dir():
        found = [
            file for file in sorted(place.rglob("*"))
            if file.suffix.lower() in SUFFIXES and file.is_file()
            and not any(part.startswith((".", "_")) for part in file.relative_to(place).parts)
        ]  # fmt: skip
        if not found:
            raise ValueError(f"{path}: must hold Parquet files ({', '.join(SUFFIXES)}), there is none")
        return ParquetFiles(path, tuple(found))
    # A file whose own name has a bracket was found above.
    names = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else []  # noqa: PTH207 - not below a folder
    matched = tuple(file for name in names if (file := Path(name)).is_file())
    if not matched:
        raise ValueError(f"{path}: must be a Parquet file, there is none")
    return ParquetFiles(path, matched)
