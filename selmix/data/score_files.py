"""Files of tables, read column by column: Parquet, CSV, TSV, and CSV under gzip.

What a column lacks is said with its row, counted from 0; :meth:`ParquetFile.place` and :meth:`TextFile.place` name it.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selmix.data.columns import label_names
from selmix.data.text_table import delimiter_of
from selmix.files import not_utf8
from selmix.score_kinds import RowError

_ROWS_AT_ONCE = 4096  # bounds what is decoded beside the tensor that it goes to
_TEXTS = (".csv", ".tsv", ".txt")
OF_PREDICTIONS = "; a column of predicted classes is named with --prediction"
FORMS = "a Parquet, CSV or TSV file (.parquet, .csv, .tsv, .csv.gz)"


def open_file(path: Path) -> ParquetFile | TextFile:
    """Open a table, told by its content, a text by its name.

    Raises:
        ValueError: no such file, or one of another form.
    """
    if not path.is_file():
        raise ValueError(f"{path}: must be {FORMS}, there is {'a folder' if path.is_dir() else 'none'}")
    with path.open("rb") as file:
        begins = file.read(4)
    # By content: a Parquet file may have any name.
    if begins != b"PAR1" and any(suffix in _TEXTS for suffix in path.suffixes[-2:]):
        return TextFile(path)
    return ParquetFile(path)


class ParquetFile:
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        try:
            self.schema = pq.read_schema(path)
            self.rows = pq.read_metadata(path).num_rows
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: must be {FORMS}: {error}") from error
        self.names = list(self.schema.names)

    def label_names(self, column: str) -> tuple[str, ...]:
        """Names of Hugging Face's ``ClassLabel`` of a column; () where there are none, or where they are numbers."""
        names = label_names(self.schema, column) or ()
        return () if any(name.isdigit() for name in names) else tuple(names)

    def place(self, row: int) -> str:
        """Name a row, from 0."""
        return f"row {row + 1}"

    def _column(self, name: str) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_table(self.path, columns=[name])[name]
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.path}: must be {FORMS}: {error}") from error

    def values(self, name: str, classes: bool = True) -> tuple[Tensor, list[Any]]:
        """Place of each row's value among the distinct ones, and these; truth values of classes are whole numbers."""
        return _indexed(self._column(name), name, classes)

    def numbers(self, names: Sequence[str]) -> Tensor:
        """Columns of numbers, shape (n, K)."""
        narrow = all(self.schema.field(name).type in _narrow_types() for name in names)
        values = torch.empty(self.rows, len(names), dtype=torch.float32 if narrow else torch.float64)
        # One at a time: the file is not held beside the tensor.
        for k, name in enumerate(names):
            values[:, k] = _tensor_of(self._column(name), name)
        return values

    def scores(self, name: str) -> Tensor:
        """A column of lists, shape (n, K), or of numbers, shape (n, 1)."""
        import pyarrow as pa

        kind = self.schema.field(name).type
        if _is_numeric(kind):
            return self.numbers([name])
        kind = getattr(kind, "storage_type", kind)
        if not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)):
            raise ValueError(
                f"{self.path}: {name} must hold numbers or lists of numbers, got {kind}{_if_texts(kind)}"
            )
        return self._lists(name, kind.value_type)

    def _lists(self, name: str, of: Any) -> Tensor:
        """A column of lists as one tensor, batch by batch, so that it is held once only."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        if not _is_numeric(of):
            raise ValueError(f"{self.path}: {name} must hold lists of numbers, got lists of {of}")
        narrow = of in _narrow_types()
        values: Tensor | None = None
        start = 0
        # Read ahead or in threads, pyarrow would hold more of the column beside the tensor.
        with pq.ParquetFile(self.path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[name], use_threads=False):
                # Of a tensor for each row the lists that it is stored as.
                column = getattr(batch.column(0), "storage", batch.column(0))
                if column.null_count:
                    missing = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
                    raise RowError(
                        start + int(missing[0]), f"{name} must be given in every row, it is missing"
                    )
                lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
                if values is None:
                    values = torch.empty(
                        self.rows, int(lengths[0]), dtype=torch.float32 if narrow else torch.float64
                    )
                width = values.shape[1]
                other = np.flatnonzero(lengths != width)
                if len(other):
                    row = int(other[0])
                    raise RowError(
                        start + row,
                        f"{name} must have as many numbers in every row, {width} as the first, got {int(lengths[row])}",
                    )
                flat = column.flatten()
                if flat.null_count:
                    missing = np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))
                    raise RowError(
                        start + int(missing[0]) // width, f"{name} must be numbers, one is missing"
                    )
                values[start : start + len(column)] = _tensor_of(flat, name).view(-1, width)
                start += len(column)
        if values is None or values.shape[1] == 0:
            raise ValueError(f"{self.path}: {name} must have rows of numbers, got none")
        return values


class TextFile:
    """A CSV or TSV file, plain or under gzip."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with self._lines() as lines:
                header = next(iter(lines), "")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: line {self._not_utf8()}") from error
        except (OSError, EOFError) as error:
            raise ValueError(f"{path}: must be {FORMS}: {error}") from error
        self.delimiter = delimiter_of(header)
        written = next(csv.reader([header], delimiter=self.delimiter), [])
        # Blanks behind the commas are no part of a name.
        self.names = [name.strip() for name in written]
        self._written = dict(zip(self.names, written, strict=True))
        if not self.names:
            raise ValueError(f"{path}: must have a line with the names of the columns, got none")
        twice = [name for name in self.names if self.names.count(name) > 1]
        if twice:
            raise ValueError(
                f"{path}: line 1: every column must have a name of its own, got {twice[0]!r} twice"
            )

    def _binary(self) -> Any:
        return gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb")

    def _lines(self) -> io.TextIOWrapper:
        # Excel begins its files with a byte order mark.
        return io.TextIOWrapper(self._binary(), encoding="utf-8-sig", newline="")

    def _not_utf8(self) -> str:
        with self._binary() as lines:
            return not_utf8(lines)

    def label_names(self, column: str) -> tuple[str, ...]:
        """No names: a text file has none beside its columns."""
        return ()

    def place(self, row: int) -> str:
        """Name a row, from 0, with its line: a text may go over several, and empty ones count as none."""
        with self._lines() as lines:
            reader = csv.reader(lines, delimiter=self.delimiter)
            rows = (reader.line_num for cells in reader if cells)
            next(rows)
            line = next((line for k, line in enumerate(rows) if k == row), None)
        return f"row {row + 1}" + (f" (line {line})" if line is not None else "")

    def _columns(self, names: Sequence[str], numeric: bool) -> Any:
        import pyarrow as pa

        try:
            return self._read(names, numeric, ".")
        except pa.ArrowInvalid as error:
            # Where no comma ends a cell it may be the decimal sign, of all the numbers.
            if numeric and self.delimiter != ",":
                with contextlib.suppress(pa.ArrowInvalid):
                    return self._read(names, numeric, ",")
            raise self._reason(names, numeric, str(error)) from error
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.path}: must be {FORMS}: {error}") from error

    def _read(self, names: Sequence[str], numeric: bool, decimal: str) -> Any:
        import pyarrow as pa
        from pyarrow import csv as pacsv

        written = [self._written[name] for name in names]
        return pacsv.read_csv(
            pa.input_stream(str(self.path), compression="gzip" if self.path.suffix == ".gz" else None),
            parse_options=pacsv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            # A class may be named NA: only an empty cell is missing.
            convert_options=pacsv.ConvertOptions(
                include_columns=written, column_types={name: pa.float64() for name in written} if numeric else {},
                null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False, decimal_point=decimal,
            ),
        ).rename_columns(list(names))  # fmt: skip

    def _reason(self, names: Sequence[str], numeric: bool, arrow: str) -> ValueError:
        """Problem, with its row: pyarrow names the column only."""
        places = {name: self.names.index(name) for name in names} if numeric else {}
        try:
            with self._lines() as lines:
                reader = csv.reader(lines, delimiter=self.delimiter)
                rows = (cells for cells in reader if cells)
                next(rows)
                for row, cells in enumerate(rows):
                    if len(cells) != len(self.names):
                        return RowError(
                            row, f"must have {len(self.names)} cells as the header, got {len(cells)}"
                        )
                    for name, place in places.items():
                        if cells[place] and not _is_number(cells[place]):
                            return RowError(
                                row,
                                f"{name} must be a number, got {cells[place]!r}{self._advice(cells[place], names)}",
                            )
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}: line {self._not_utf8()}") from error
        return ValueError(f"{self.path}: must be {FORMS}: {arrow}")

    def _advice(self, cell: str, names: Sequence[str]) -> str:
        if self.delimiter == "," and _is_number(cell.replace(",", ".", 1)):
            return "; where a comma is the decimal sign, semicolons must stand between the cells"
        return OF_PREDICTIONS if len(names) == 1 and any(sign.isalpha() for sign in cell) else ""

    def values(self, name: str, classes: bool = True) -> tuple[Tensor, list[Any]]:
        """Place of each row's value among the distinct ones, and these; truth values of classes are whole numbers."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self._columns([name], numeric=False)[name]
        # As in the header: blanks behind the commas are no part of a text.
        return _indexed(
            pc.utf8_trim_whitespace(column) if pa.types.is_string(column.type) else column, name, classes
        )

    def numbers(self, names: Sequence[str]) -> Tensor:
        """Columns of numbers, shape (n, K)."""
        table = self._columns(names, numeric=True)
        values = torch.empty(table.num_rows, len(names), dtype=torch.float64)
        for k, name in enumerate(names):
            values[:, k] = _tensor_of(table[name], name)
        return values

    def scores(self, name: str) -> Tensor:
        """A column of numbers, shape (n, 1), or of lists in brackets, as pandas and numpy write them, shape (n, K)."""
        with self._lines() as lines:
            reader = csv.reader(lines, delimiter=self.delimiter)
            next(reader)
            first = next((cells for cells in reader if cells), [])
        place = self.names.index(name)
        is_list = len(first) > place and first[place].strip().startswith("[")
        return self._lists(name) if is_list else self.numbers([name])

    def _lists(self, name: str) -> Tensor:
        column = self._columns([name], numeric=False)[name]
        values: Tensor | None = None
        for row, cell in enumerate(column):
            text = (cell.as_py() or "").strip()
            numbers = text.removeprefix("[").removesuffix("]").replace(",", " ").split()
            if not (text.startswith("[") and text.endswith("]") and all(map(_is_number, numbers))):
                raise RowError(row, f"{name} must be a list of numbers in brackets, got {text[:60]!r}")
            if values is None:
                values = torch.empty(len(column), len(numbers), dtype=torch.float64)
            if len(numbers) != values.shape[1]:
                raise RowError(
                    row,
                    f"{name} must have as many numbers in every row, {values.shape[1]} as the first, got "
                    f"{len(numbers)}",
                )
            values[row] = torch.tensor([float(number) for number in numbers], dtype=torch.float64)
        if values is None or values.shape[1] == 0:
            raise ValueError(f"{self.path}: {name} must have rows of numbers, got none")
        return values


def _plain(value: Any) -> Any:
    """Truth values and whole floats as whole numbers: pandas makes them of labels."""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return value


def _indexed(column: Any, name: str, classes: bool) -> tuple[Tensor, list[Any]]:
    """Place of each row's value among the distinct values of a column, shape (n,), and these, the first one first."""
    import pyarrow as pa

    if not len(column):
        raise ValueError(f"{name}: must have rows, got none")
    if pa.types.is_nested(column.type):
        raise ValueError(f"{name} must hold whole numbers or texts, got {column.type}")
    if column.null_count:
        missing = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
        raise RowError(int(missing[0]), f"{name} must be given in every row, it is missing")
    # Chunks combined first: a chunked array has neither ``dictionary`` nor ``indices``.
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    # A stored dictionary may hold values that no row has, in any order.
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    encoded = column.dictionary_encode()
    # A copy, as torch warns of memory that it may not write to.
    index = torch.from_numpy(encoded.indices.to_numpy(zero_copy_only=False).copy()).long()
    values = encoded.dictionary.to_pylist()
    return index, [_plain(value) for value in values] if classes else values


def _is_numeric(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))


def _narrow_types() -> tuple[Any, ...]:
    import pyarrow as pa

    return pa.float16(), pa.float32()


def _tensor_of(column: Any, name: str) -> Tensor:
    """Numbers of a column as a tensor; refuses other types and missing values."""
    import pyarrow as pa

    if not _is_numeric(column.type):
        raise ValueError(f"{name} must hold numbers, got {column.type}")
    if column.null_count:
        missing = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
        raise RowError(int(missing[0]), f"{name} must be a number in every row, it is missing")
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    # A copy, as torch warns of memory that it may not write to.
    return torch.from_numpy(np.array(column.to_numpy(zero_copy_only=False)))


def _if_texts(kind: Any) -> str:
    """Advice for a column of texts in the place of scores."""
    import pyarrow as pa

    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
    return OF_PREDICTIONS if texts else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
