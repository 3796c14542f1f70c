"""Tables of labels, class scores or predictions, and groups: Parquet, CSV, TSV, and CSV under gzip.

Whatever a table lacks is said with its row, counted from 1 without the header, and of a text file with its line.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table, and of its classes.

    Attributes:
        label: column of the labels.
        scores: columns of the scores: one with lists of K numbers, one with the scores of the positive class of two, or
            one per class; () to find them by the prefix, in a column ``scores``, or in the only column left.
        prefix: of the columns with the scores of one class, ``PREFIXNAME``.
        group: column of the groups; None: ``group`` where there is one.
        prediction: column of the predicted classes, which then stand for the scores; None for scores.
        class_names: names of the classes in the order of the scores; () to take them from the table.
        positive: name or label of the positive class of two; None for the second one.
    """

    label: str = "label"
    scores: tuple[str, ...] = ()
    prefix: str = "score_"
    group: str | None = None
    prediction: str | None = None
    class_names: tuple[str, ...] = ()
    positive: str | None = None


@dataclass(frozen=True)
class ScoreTable:
    """Labels and class scores, or predictions, from a file.

    Attributes:
        labels: shape (n,), int64.
        scores: shape (n, K); (n, 1) for those of the positive class of two; float32 where the file has no more, else
            float64. None where there are predictions only.
        class_names: K texts, in the order of the scores; of two the positive one is the second.
        groups: shape (n,), int64; None where there are no groups.
        group_names: A texts, sorted; empty where there are no groups.
        predicted: predicted class of each row, shape (n,), int64; None where there are scores.
        unfit_groups: why a column ``group`` that nobody asked for gives no groups; "" elsewhere.
    """

    labels: Tensor
    scores: Tensor | None
    class_names: tuple[str, ...]
    groups: Tensor | None = None
    group_names: tuple[str, ...] = ()
    predicted: Tensor | None = None
    unfit_groups: str = ""


def read_scores(path: Path, columns: Columns | None = None) -> ScoreTable:
    """Read a table of labels and scores, or labels and predictions.

    Labels are names of classes, or whole numbers 0 .. K - 1 in the order of the scores. Names of the classes are
    ``class_names``, those after the prefix, or the numbers; of predictions the values of both columns, sorted.

    Args:
        path: of the file, ``.parquet``, ``.csv``, ``.tsv`` or one of the latter under ``.gz``.
        columns: names of its columns; None for ``label``, ``scores`` or ``score_NAME``, and ``group``.
    Raises:
        ValueError: no such file, another form, or a column that is missing or holds something else; with the row.
    """
    columns = columns or Columns()
    file = _open(path)
    try:
        table = _Reader(file, columns).table()
        _release()
        return table
    except RowError as error:
        raise ValueError(f"{path}: {file.place(error.row)}: {error.text}") from error
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(str(path)) else f"{path}: {text}") from error


def _release() -> None:
    """Give back what pyarrow keeps of the columns that were read: the tensors are all that is needed now."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


def place_in(path: Path, row: int) -> str:
    """Name a row of a file, from 0: ``row 3``, of a text file ``row 3 (line 4)``."""
    return _open(path).place(row)


class _Reader:
    """Reads the columns of one table, one at a time, so that the file is never held beside the tensors."""

    def __init__(self, file: _Parquet | _Text, columns: Columns) -> None:
        self.file, self.columns, self.path = file, columns, file.path
        self.names = file.names
        # One by one: each is the first that a user would mend.
        for option, name in (("--label", columns.label), ("--group", columns.group),
                             ("--prediction", columns.prediction)):  # fmt: skip
            if name is not None and name not in self.names:
                raise ValueError(
                    f"{self.path}: must have a column {name}, got {self._listed()}; name it with {option}"
                )

    def _listed(self) -> str:
        return ", ".join(self.names)

    def table(self) -> ScoreTable:
        """The whole table."""
        group = self.columns.group or ("group" if "group" in self.names else None)
        if self.columns.prediction is not None:
            labels, predicted, names = self._predictions(self.columns.prediction)
            scores = None
        else:
            predicted = None
            scores, names = self._scores(group)
            labels, names = self._labels(scores, names)
        if scores is not None and len(scores) != len(labels):
            raise AssertionError("columns of one file have one length")
        if group is None:
            return ScoreTable(labels, scores, names, predicted=predicted)
        try:
            groups, group_names = self._groups(group)
        except RowError as error:
            unfit = f"{self.file.place(error.row)}: {error.text}"
        except ValueError as error:
            unfit = str(error).removeprefix(f"{self.path}: ")
        else:
            return ScoreTable(labels, scores, names, groups, group_names, predicted)
        if self.columns.group is not None:
            raise ValueError(f"{self.path}: {unfit}")
        # A column of that name may be anything; most metrics need no groups.
        return ScoreTable(labels, scores, names, predicted=predicted, unfit_groups=unfit)

    def _groups(self, column: str) -> tuple[Tensor, tuple[str, ...]]:
        """Group of each row, shape (n,), and the names of the groups."""
        index, values = self.file.values(column, classes=False)
        if len(values) < 2:
            raise ValueError(f"{column} must name at least two groups, got {values}")
        place, names = _sorted(values)
        return place[index], names

    def _scores(self, group: str | None) -> tuple[Tensor, tuple[str, ...]]:
        """Scores, and names of the classes as the columns give them; () where they give none."""
        stated, prefix = self.columns.scores, self.columns.prefix
        for name in stated:
            if name not in self.names:
                raise ValueError(
                    f"{self.path}: must have a column {name}, got {self._listed()}; name it with --scores-column"
                )
        found = stated or tuple(name for name in self.names if prefix and name.startswith(prefix))
        if not found and "scores" in self.names:
            found = ("scores",)
        if not found:
            used = {self.columns.label, group}
            found = tuple(name for name in self.names if name not in used)
            if len(found) != 1:
                raise ValueError(
                    f"{self.path}: must have a column scores with lists of K numbers, columns {prefix}NAME, or one "
                    f"column beside the label, got {self._listed()}; name it with --scores-column or --score-prefix"
                )
        if len(found) == 1:
            return self.file.scores(found[0]), self.file.label_names(self.columns.label)
        return self.file.numbers(found), tuple(
            name.removeprefix(prefix) if not stated else name for name in found
        )

    def _labels(self, scores: Tensor, held: tuple[str, ...]) -> tuple[Tensor, tuple[str, ...]]:
        """Labels, and the names of the classes."""
        index, values = self.file.values(self.columns.label)
        classes = max(2, scores.shape[1])
        # Names in a file's metadata are of its labels, whatever scores stand beside them.
        held = held if len(held) == classes else ()
        if scores.shape[1] == 1 and not self.columns.class_names:
            return self._two_values(index, values)
        names = self._class_names(held, classes)
        labels = _placed(values, names)[index]
        self._check_labels(labels, index, values, names)
        return self._with_positive(labels, names, scores)

    def _class_names(self, held: tuple[str, ...], classes: int) -> tuple[str, ...]:
        stated = self.columns.class_names
        if not stated:
            return held or tuple(map(str, range(classes)))
        if len(stated) != classes or len(set(stated)) != classes:
            raise ValueError(
                f"{self.path}: --class-names must be {classes} different names, one per class, got {', '.join(stated)}"
            )
        if not held or set(held) == set(stated):
            return held or stated
        # Columns score_0, score_1, ...: the names are those of the classes 0, 1, ...
        if set(held) == set(map(str, range(classes))):
            return tuple(stated[int(name)] for name in held)
        raise ValueError(
            f"{self.path}: --class-names must be those of the columns, {', '.join(held)}, got {', '.join(stated)}"
        )

    def _check_labels(self, labels: Tensor, index: Tensor, values: list[Any], names: tuple[str, ...]) -> None:
        if bool((labels < 0).any()):
            row = int((labels < 0).nonzero()[0])
            shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise RowError(
                row,
                f"{self.columns.label} must be one of {shown}, got {values[int(index[row])]!r}; name the classes in "
                "the order of their scores with --class-names",
            )

    def _two_values(self, index: Tensor, values: list[Any]) -> tuple[Tensor, tuple[str, ...]]:
        """Labels of two classes by their two values, the positive one second."""
        if len(values) > 2:
            # Values stand in the order in which they occur.
            row = int((index == 2).nonzero()[0])
            raise RowError(
                row,
                f"{self.columns.label} must have two values with one column of scores, got {values[2]!r} beside "
                f"{values[0]!r} and {values[1]!r}; give a column of scores per class",
            )
        _, texts = _sorted(values)
        positive = self.columns.positive
        if positive is None:
            # Which of cat and dog the scores are of cannot be guessed; of 0 and 1 everybody means 1.
            if not set(texts) <= {"0", "1"}:
                raise ValueError(
                    f"{self.path}: one column of scores needs the class that they are of, one of {', '.join(texts)}; "
                    "give --positive VALUE"
                )
            texts, positive = ("0", "1"), "1"
        place = _match(positive, texts)
        if place is None:
            raise ValueError(f"{self.path}: --positive must be one of {', '.join(texts)}, got {positive!r}")
        others = tuple(text for k, text in enumerate(texts) if k != place)
        names = (*others, texts[place])
        if len(names) == 2:
            return _placed(values, names)[index], names
        # One value alone: the class that it is of has every sample.
        return torch.ones(len(index), dtype=torch.int64), (f"not {names[0]}", names[0])

    def _with_positive(
        self, labels: Tensor, names: tuple[str, ...], scores: Tensor
    ) -> tuple[Tensor, tuple[str, ...]]:
        positive = self.columns.positive
        if positive is None:
            return labels, names
        place = _match(positive, names)
        if place is None:
            raise ValueError(f"{self.path}: --positive must be one of {', '.join(names)}, got {positive!r}")
        if len(names) != 2:
            raise ValueError(f"{self.path}: --positive goes with two classes, got {len(names)}")
        if place == 1:
            return labels, names
        # In place: the columns of a large table are not held twice.
        if scores.shape[1] == 2:
            scores.copy_(scores.flip(1))
        return 1 - labels, names[::-1]

    def _predictions(self, column: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        of_labels, of_predictions = self.file.values(self.columns.label), self.file.values(column)
        # By text: one column may hold the numbers that the other one holds as texts.
        held = {str(value): value for value in (*of_labels[1], *of_predictions[1])}
        if not {str(value) for value in of_labels[1]} & {str(value) for value in of_predictions[1]} and (
            not self.columns.class_names
        ):
            raise ValueError(
                f"{self.path}: {column} must hold classes of {self.columns.label}, got {_some(of_predictions[1])} and "
                f"none of {_some(of_labels[1])}; name the classes in the order of their numbers with --class-names"
            )
        names = self.columns.class_names or _sorted(list(held.values()))[1]
        found = []
        for name, (index, values) in ((self.columns.label, of_labels), (column, of_predictions)):
            place = _placed(values, names)[index]
            if bool((place < 0).any()):
                row = int((place < 0).nonzero()[0])
                raise RowError(
                    row, f"{name} must be one of {', '.join(names)}, got {values[int(index[row])]!r}"
                )
            found.append(place)
        if len(names) < 2:
            raise ValueError(
                f"{self.path}: labels and predictions must name at least two classes, got {names[0]}"
            )
        labels, predicted = found
        positive = self.columns.positive
        if positive is not None:
            at = _match(positive, names)
            if at is None or len(names) != 2:
                raise ValueError(
                    f"{self.path}: --positive must be one of two classes, got {positive!r} of {', '.join(names)}"
                )
            if at == 0:
                labels, predicted, names = 1 - labels, 1 - predicted, names[::-1]
        return labels, predicted, names


def _some(values: Sequence[Any]) -> str:
    """Some of the values of a column, in words."""
    return ", ".join(map(str, values[:3])) + (", ..." if len(values) > 3 else "")


def _placed(values: Sequence[Any], names: Sequence[str]) -> Tensor:
    """Class of each value, by its name, else by its number; -1 for one that is neither; shape (m,).

    Names come before places: with columns score_2 and score_1 the label 1 is the second column.
    """
    of_name = {name: k for k, name in enumerate(names)}
    if all(str(value) in of_name for value in values):
        return torch.tensor([of_name[str(value)] for value in values])
    if all(isinstance(value, int) for value in values):
        return torch.tensor([value if 0 <= value < len(names) else -1 for value in values])
    return torch.tensor([of_name.get(str(value), -1) for value in values])


def _match(stated: str, names: Sequence[str]) -> int | None:
    """Place of the class that is stated, by its name, or by its value as a number or truth value."""
    if stated in names:
        return list(names).index(stated)
    plain = {"true": "1", "false": "0"}.get(stated.lower(), stated)
    try:
        plain = str(int(float(plain))) if float(plain) == int(float(plain)) else plain
    except (ValueError, OverflowError):
        return None
    return list(names).index(plain) if plain in names else None


def _sorted(values: Sequence[Any]) -> tuple[Tensor, tuple[str, ...]]:
    """Place of each value among all, sorted, shape (m,), and the sorted values as texts."""
    # By value and not by text: 10 comes after 9. Numbers and texts together go by text.
    try:
        order = sorted(range(len(values)), key=lambda k: values[k])
    except TypeError:
        order = sorted(range(len(values)), key=lambda k: str(values[k]))
    place = torch.empty(len(values), dtype=torch.int64)
    place[torch.tensor(order, dtype=torch.int64)] = torch.arange(len(values))
    return place, tuple(str(values[k]) for k in order)


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


class _Parquet:
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


class _Text:
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


def _open(path: Path) -> _Parquet | _Text:
    if not path.is_file():
        raise ValueError(f"{path}: must be {FORMS}, there is {'a folder' if path.is_dir() else 'none'}")
    with path.open("rb") as file:
        begins = file.read(4)
    # By content: a Parquet file may have any name.
    if begins != b"PAR1" and any(suffix in _TEXTS for suffix in path.suffixes[-2:]):
        return _Text(path)
    return _Parquet(path)
