"""Rows to be predicted: of tables, of folders of images and of lists of these, batch by batch, bad ones by name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from selmix.data.columns import matched_columns, vectors, width_of
from selmix.data.folders import find_images
from selmix.data.given import image_batch
from selmix.data.image_column import image_columns, read_images
from selmix.data.images import SUFFIXES
from selmix.data.parquet_files import SUFFIXES as TABLES
from selmix.data.parquet_files import find_files
from selmix.data.table_source import BatchOfRows, TableSource
from selmix.data.text_table import TextTable, is_text_table
from selmix.data.wording import listed
from selmix.pinned import PinnedInputs

IMAGES_AT_ONCE = 64
# Bounds what a batch of feature vectors takes: some 16 MB.
_NUMBERS_AT_ONCE, _VECTORS_AT_ONCE = 1 << 22, 4096
PATH = "path"
"""Column of the paths of images that lie in files."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be predicted.

    Attributes:
        row: its number, from 0.
        problem: what is wrong with it, with its name.
    """

    row: int
    problem: str


@dataclass(frozen=True)
class RowBatch:
    """Some rows that follow each other.

    Attributes:
        start: number of the first one.
        size: number of them.
        good: places among them of those that can be predicted.
        inputs: of these, shape (len(good), ...); as the network takes them.
        groups: of these, shape (len(good),); None where the correction is not by group.
        bad: the other rows.
        kept: columns that are handed on, an Arrow record batch of ``size`` rows.
    """

    start: int
    size: int
    good: Sequence[int]
    inputs: Tensor
    groups: Tensor | None
    bad: Sequence[BadRow]
    kept: Any


class RowSource(Protocol):
    """Rows to be predicted."""

    @property
    def kept_schema(self) -> Any:
        """Arrow schema of the columns that are handed on."""

    def batches(self) -> Iterator[RowBatch]:
        """All rows in order, batch by batch."""


@dataclass(frozen=True)
class Wanted:
    """Columns of a table.

    Attributes:
        inputs: name of the column of images or of vectors, names or a pattern of columns of numbers; None for those
            that the pin was fitted on.
        group: column of the groups; None for the pin's, else ``group``.
        kept: columns that are handed on; None for all that are no inputs.
    """

    inputs: str | Sequence[str] | None = None
    group: str | None = None
    kept: Sequence[str] | None = None


@dataclass(frozen=True)
class TableRows:
    """Rows of a table of features, or of encoded images.

    Attributes:
        source: the table.
        pinned: the model.
        columns: of the inputs.
        group: column of the groups; None where the correction is not by group.
        kept: columns that are handed on.
        at_once: rows of a batch.
    """

    source: TableSource
    pinned: PinnedInputs
    columns: str | Sequence[str]
    group: str | None
    kept: Sequence[str]
    at_once: int

    @property
    def kept_schema(self) -> Any:
        """Arrow schema of the columns that are handed on; of a struct of bytes and path the path alone."""
        import pyarrow as pa

        held = self.source.columns
        return pa.schema([(name, _kept_type(held[name])) for name in self.kept])

    def batches(self) -> Iterator[RowBatch]:
        """All rows in order, batch by batch.

        Raises:
            ValueError: the table cannot be read.
        """
        inputs = [self.columns] if isinstance(self.columns, str) else list(self.columns)
        names = list(dict.fromkeys([*inputs, *self.kept, *([self.group] if self.group else [])]))
        for start, batch in self.source.batches(names, self.at_once):
            if batch.num_rows:
                yield self._batch(BatchOfRows(self.source, start, batch))

    def _batch(self, rows: BatchOfRows) -> RowBatch:
        import pyarrow as pa

        groups, bad = self._groups(rows)
        try:
            inputs = self._inputs(rows)
            readable = list(range(rows.num_rows))
        # Once more one by one, for the rows that can be read, and the names of those that cannot.
        except ValueError:
            each = []
            readable = []
            for place in range(rows.num_rows):
                try:
                    each.append(self._inputs(rows.one(place)))
                    readable.append(place)
                except ValueError as error:
                    bad.setdefault(place, str(error))
            inputs = torch.cat(each) if each else torch.empty(0, *self.pinned.input_shape)
        good = [place for place in readable if place not in bad]
        # Not copied where all are good: the common case, of megabytes.
        if len(good) < len(readable):
            inputs = inputs[[k for k, place in enumerate(readable) if place not in bad]]
        columns = [_kept_column(rows.batch.column(name)) for name in self.kept]
        schema = self.kept_schema
        kept = pa.RecordBatch.from_arrays(
            [column.cast(kind) for column, kind in zip(columns, schema.types, strict=True)], schema=schema
        )
        return RowBatch(
            rows.start, rows.num_rows, good, inputs, None if groups is None else groups[good],
            [BadRow(rows.start + place, problem) for place, problem in sorted(bad.items())], kept,
        )  # fmt: skip

    def _groups(self, rows: BatchOfRows) -> tuple[Tensor | None, dict[int, str]]:
        """Place of each row's group, and the rows whose group is not known."""
        if self.group is None:
            return None, {}
        column = rows.batch.column(self.group)
        values = column.to_pylist()
        # Whole numbers with gaps are floats in a data frame.
        values = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
        places = self.pinned.known_places(values)
        bad = {
            k: f"{rows.path}: {self.group} must be {self.pinned.groups_in_words}, got {values[k]!r} in {rows.row(k)}"
            for k, place in enumerate(places)
            if place < 0
        }
        return torch.tensor(places, dtype=torch.int64), bad

    def _inputs(self, rows: BatchOfRows) -> Tensor:
        """Inputs of rows as the network takes them, shape (m, ...).

        Raises:
            ValueError: a row cannot be read; with its name.
        """
        steps, shape = self.pinned.steps, self.pinned.input_shape
        if steps is not None:
            name = self.columns if isinstance(self.columns, str) else self.columns[0]
            images = read_images(rows, name, steps)
            if images.encoded is not None:
                # In messages a row has its number in the whole table.
                numbered = replace(images.encoded, rows=images.encoded.rows + rows.start)
                images = replace(images, encoded=numbered)
            return images.batch(torch.arange(rows.num_rows))
        numbers = _as_numbers(rows, self.columns)
        found = vectors(numbers, self.columns)
        if found.shape[1] != math.prod(shape):
            raise ValueError(
                f"{rows.path}: {_named(self.columns)} must have {math.prod(shape)} numbers, as the model takes, got "
                f"{found.shape[1]} in {rows.row(0)}"
            )
        return found.view(-1, *shape)


@dataclass(frozen=True)
class FileRows:
    """Images in files.

    Attributes:
        files: paths.
        names: of the files, as they are handed on.
        pinned: the model.
        at_once: images of a batch.
    """

    files: Sequence[str]
    names: Sequence[str]
    pinned: PinnedInputs
    at_once: int

    @property
    def kept_schema(self) -> Any:
        """Arrow schema of the paths."""
        import pyarrow as pa

        return pa.schema([(PATH, pa.string())])

    def batches(self) -> Iterator[RowBatch]:
        """All images in order, batch by batch."""
        import pyarrow as pa

        for start in range(0, len(self.files), self.at_once):
            files = self.files[start : start + self.at_once]
            images, bad = self._images(files, start)
            good = [place for place, each in enumerate(images) if each is not None]
            whole = [each for each in images if each is not None]
            names = pa.array(self.names[start : start + self.at_once], pa.string())
            inputs = torch.stack(whole) if whole else torch.empty(0, *self.pinned.input_shape)
            kept = pa.RecordBatch.from_arrays([names], schema=self.kept_schema)
            yield RowBatch(start, len(files), good, inputs, None, bad, kept)

    def _images(self, files: Sequence[str], start: int) -> tuple[list[Tensor | None], list[BadRow]]:
        steps = self.pinned.steps
        if steps is None:
            raise AssertionError("a model of images was checked for")
        try:
            return list(image_batch(list(files), steps)), []
        except ValueError:
            images: list[Tensor | None] = []
            bad = []
            for place, file in enumerate(files):
                try:
                    images.append(image_batch(file, steps)[0])
                except ValueError as error:
                    images.append(None)
                    bad.append(BadRow(start + place, str(error)))
            return images, bad


@dataclass(frozen=True)
class _Opening:
    """How rows are opened: the model, the columns, and the sizes."""

    pinned: PinnedInputs
    wanted: Wanted = field(default_factory=Wanted)
    root: Path | None = None
    at_once: int | None = None


def open_rows(
    given: Path, pinned: PinnedInputs, wanted: Wanted | None = None, root: Path | None = None,
    at_once: int | None = None,
) -> RowSource:  # fmt: skip
    """Open rows to be predicted by what a path names.

    Args:
        given: a table (Parquet, a folder or pattern of such files, CSV, TSV, also under gzip); and for a model of
            images an image, a folder of them, or a list (``.txt``) with a path per line.
        pinned: the model.
        wanted: columns of a table; None for those of the pin.
        root: folder that the paths of a list are relative to; None for the list's own.
        at_once: rows of a batch; None for a number that bounds the memory.
    Raises:
        ValueError: it is none of these, a column is missing, or the rows are not those that the model takes.
    """
    opening = _Opening(pinned, wanted or Wanted(), root, at_once)
    if pinned.steps is not None:
        if given.is_dir() and not _holds_tables(given):
            return _folder(given, opening)
        if given.is_file() and given.suffix.lower() in SUFFIXES:
            return _files([str(given)], [str(given)], given, opening)
        if given.is_file() and given.suffix.lower() == ".txt":
            return _image_list(given, opening)
        if not given.exists() and not any(sign in str(given) for sign in "*?["):
            raise ValueError(
                f"{given}: must be a table, an image, a folder of images or a list of them (.txt), there is none"
            )
    source: TableSource = (
        TextTable(str(given)) if given.is_file() and is_text_table(given) else find_files(str(given))
    )
    return table_rows(source, pinned, opening.wanted, at_once)


def table_rows(
    source: TableSource, pinned: PinnedInputs, wanted: Wanted | None = None, at_once: int | None = None
) -> TableRows:
    """Rows of a table as the model takes them; arguments and errors are those of :func:`open_rows`."""
    wanted = wanted or Wanted()
    held = list(source.columns)
    group = _group_column(source, pinned, wanted)
    columns = _input_columns(source, pinned, wanted, group)
    inputs = [columns] if isinstance(columns, str) else list(columns)
    if wanted.kept is not None:
        source.check(wanted.kept)
    candidates = held if wanted.kept is None else list(wanted.kept)
    # Columns that folders give a table (KEY=VALUE) do not lie in its files.
    inside = set(source.schema.names)
    kept = [
        name for name in candidates
        if name in inside and _kept_type(source.columns[name]) is not None
        and (wanted.kept is not None or name not in inputs or pinned.steps is not None)
    ]  # fmt: skip
    if lost := [name for name in wanted.kept or () if name not in kept]:
        raise ValueError(
            f"{source.path}: columns that are kept must hold texts, numbers or dates, {lost[0]} does not"
        )
    if pinned.steps is None:
        width = _stated_width(source, columns)
        if width is not None and width != math.prod(pinned.input_shape):
            raise ValueError(
                f"{source.path}: {_named(columns)} must have {math.prod(pinned.input_shape)} numbers, as the model "
                f"takes, got {width}"
            )
    if at_once is None:
        numbers = max(1, _NUMBERS_AT_ONCE // max(1, math.prod(pinned.input_shape)))
        at_once = IMAGES_AT_ONCE if pinned.steps is not None else min(_VECTORS_AT_ONCE, numbers)
    return TableRows(source, pinned, columns, group, kept, at_once)


def _group_column(source: TableSource, pinned: PinnedInputs, wanted: Wanted) -> str | None:
    by_group = pinned.correction is not None and pinned.correction.group_offset is not None
    if not by_group:
        if wanted.group is not None:
            raise ValueError("this model's predictions are not corrected by group; leave --group out")
        return None
    name = wanted.group or pinned.group or "group"
    if name not in source.schema.names:
        held = listed(list(source.schema.names), "columns", 12)
        raise ValueError(
            f"{source.path}: this model's correction is by group, and the column {name} is not there, got {held}; name "
            "it with --group"
        )
    return name


def _input_columns(
    source: TableSource, pinned: PinnedInputs, wanted: Wanted, group: str | None
) -> str | list[str]:
    held = list(source.columns)
    named = wanted.inputs if wanted.inputs is not None else pinned.columns
    if pinned.steps is not None:
        if named is None:
            found = image_columns(source)
            named = "image" if "image" in held else found[0] if len(found) == 1 else None
            if named is None:
                raise ValueError(
                    f"{source.path}: must have a column image, or one of encoded images, got "
                    f"{listed(held, 'columns', 12)}; name it with --input"
                )
        name = named if isinstance(named, str) else named[0]
        source.check([name])
        return name
    try:
        columns = matched_columns(held, named or "features", [group] if group else [], source.path)
    except ValueError as error:
        raise ValueError(f"{error}; name the columns of the features with --input") from error
    if wanted.inputs is not None:
        columns = _in_order_of_pin(columns, pinned.columns, source.path)
    source.check([columns] if isinstance(columns, str) else columns)
    return columns


def _in_order_of_pin(
    columns: str | list[str], pinned: str | Sequence[str] | None, where: str
) -> str | list[str]:
    """Columns that were named for the inputs: the pin's own in its order, whatever the order of the table.

    Raises:
        ValueError: some are the pin's own and others are not, so that it cannot be told which stands for which.
    """
    if isinstance(columns, str) or pinned is None or isinstance(pinned, str):
        return columns
    if set(columns) == set(pinned):
        return list(pinned)
    own = [name for name in columns if name in pinned]
    if not own:
        return columns
    strange = [name for name in columns if name not in pinned] or [
        name for name in pinned if name not in columns
    ]
    how = "beside" if strange[0] in columns else "without"
    raise ValueError(
        f"{where}: --input must name the columns of the pin, or columns of other names in their order, got {own[0]} of "
        f"the pin {how} {strange[0]}; leave --input out for the pin's own"
    )


def _stated_width(source: TableSource, columns: str | Sequence[str]) -> int | None:
    """Numbers of a row, where the types of the columns say it."""
    import pyarrow as pa

    if isinstance(columns, str) and not pa.types.is_fixed_size_list(source.columns[columns]):
        return None
    return width_of(source, columns)


def _named(columns: str | Sequence[str]) -> str:
    return columns if isinstance(columns, str) else f"the columns {columns[0]} to {columns[-1]}"


def _as_numbers(rows: BatchOfRows, columns: str | Sequence[str]) -> BatchOfRows:
    """Rows whose texts are numbers, where a text file holds them.

    Raises:
        ValueError: a text is no number; with its row.
    """
    import pyarrow as pa

    if isinstance(columns, str):
        return rows
    batch = rows.batch
    for name in columns:
        column = batch.column(name)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            continue
        try:
            numbers = column.cast(pa.float64())
        except pa.ArrowException as error:
            raise ValueError(
                f"{rows.path}: {name} must be a number, got {column[0].as_py()!r} in {rows.row(0)}"
            ) from error
        batch = batch.set_column(batch.schema.get_field_index(name), name, numbers)
    return BatchOfRows(rows.whole, rows.start, batch)


def _kept_type(kind: Any) -> Any:
    """Type that a column is handed on with; None for one that is not: bytes, lists, structs without a path."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return _kept_type(kind.value_type)
    if types.is_struct(kind):
        names = [kind.field(k).name for k in range(kind.num_fields)]
        return pa.string() if "path" in names else None
    is_binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    return None if types.is_nested(kind) or is_binary or types.is_null(kind) else kind


def _kept_column(column: Any) -> Any:
    """A column as it is handed on."""
    import pyarrow as pa

    if not pa.types.is_struct(column.type):
        return column
    names = [column.type.field(k).name for k in range(column.type.num_fields)]
    # ``flatten`` has the gaps of the struct itself too.
    return column.flatten()[names.index("path")]


def _holds_tables(folder: Path) -> bool:
    return any(path.suffix.lower() in TABLES for path in folder.rglob("*"))


def _folder(folder: Path, opening: _Opening) -> FileRows:
    found = find_images(folder)
    if not found.images:
        raise ValueError(f"{folder}: must hold images or Parquet files, there is none")
    names = [str(Path(path).relative_to(folder)) for path in found.images]
    return _files(found.images, names, folder, opening)


def _image_list(path: Path, opening: _Opening) -> FileRows:
    """Images of a list; of a line ``PATH LABEL`` the label is not read."""
    root = path.parent if opening.root is None else opening.root
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: must be a list of images in UTF-8, one path per line: {error}") from error
    names = []
    for line in filter(None, map(str.strip, lines)):
        # A path may hold spaces: the last word is a label only where there is a path without it.
        before, _, last = line.rpartition(" ")
        has_label = before and last.isdigit() and not (root / line).exists()
        names.append(before.strip() if has_label else line)
    if not names:
        raise ValueError(f"{path}: must list an image at least, got none")
    return _files([str(root / name) for name in names], names, path, opening)


def _files(files: Sequence[str], names: Sequence[str], given: Path, opening: _Opening) -> FileRows:
    pinned, wanted = opening.pinned, opening.wanted
    if pinned.correction is not None and pinned.correction.group_offset is not None:
        raise ValueError(
            f"{given}: this model's correction is by group; give a table with the images or their paths and a column "
            "of the groups"
        )
    for option, stated in (("--input", wanted.inputs), ("--group", wanted.group), ("--keep", wanted.kept)):
        if stated is not None:
            raise ValueError(f"{option}: goes with a table, got {given}")
    return FileRows(files, names, pinned, opening.at_once or IMAGES_AT_ONCE)
