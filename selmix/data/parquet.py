"""Tables of the user's own in Parquet: feature vectors, or encoded images, with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from selmix.data.columns import matched_columns, values_of, vectors, width_of, with_label_names
from selmix.data.division import Division, Labelled, divide, held_problems, parts_named
from selmix.data.image_column import image_columns, read_images
from selmix.data.images import Images, Inputs
from selmix.data.parquet_files import ParquetFiles, find_files
from selmix.data.preprocess import Preprocess
from selmix.data.sizes import order_problems
from selmix.data.split_names import PARTS, split_named
from selmix.data.splits import Split, SweepData
from selmix.data.table_source import TableSource
from selmix.data.wording import listed


@dataclass(frozen=True)
class ParquetConfig:
    """Files and columns of a table, and their split.

    Attributes:
        path: a file, a folder of files (``split=train/part-0.parquet`` is a column ``split``), or a pattern.
        label: column of the labels, whole numbers or texts. Hugging Face's ``ClassLabel`` names are read.
        features: column of lists of as many numbers in every row; or columns of numbers, as a list or a pattern
            (``f*``). None: ``features``, where there is such a column.
        group: column with the group of every row, a whole number or a text; None where there are no groups.
        unit: column with the unit of every row (subject, patient, video), of which no two splits should share one; None
            where every row is one.
        split: column with train, feedback, select (or validation, valid, val, dev) or test in every row, in any case;
            with None each class is split at random, unless the names of a folder's files say the split
            (``train-00000.parquet``).
        feedback: samples per class, or below 1 a fraction of each class; 20 if not given. Where splits are given, one
            that has no row is drawn from train if its size is given.
        select: likewise; 24 if not given.
        test: likewise; 50 if not given.
        floor: samples per class that a fraction gives at least.
        rare_classes: ``refuse``, ``drop`` or ``pool`` (into one class ``other``) classes with too few rows.
        allow_duplicates: True if rows of test may be in another split too, or under two labels.
        seed: of the random split; the rest is train.
        image: column of encoded images: bytes, structs of ``bytes`` and ``path`` (as Hugging Face writes them), or
            paths of files beside the table. None: the one such column where there is no column ``features``.
        size: of images only, as all that follow: the keys of :class:`selmix.data.preprocess.Preprocess`.
        resize: likewise.
        crop: likewise.
        interpolation: likewise.
        mean: likewise.
        std: likewise.
        input_range: likewise.
        white: likewise.
        class_order: names of the classes in the order of the labels (its key is ``class_names``); None: sorted.
    Raises:
        ValueError: a size out of range. Reading the file (at the first use of its contents) raises ValueError too.
    """

    path: str
    label: str = "label"
    features: str | tuple[str, ...] | None = None
    group: str | None = None
    split: str | None = None
    feedback: int | float | None = None
    select: int | float | None = None
    test: int | float | None = None
    seed: int = 0
    unit: str | None = None
    floor: int = 1
    rare_classes: str = "refuse"
    allow_duplicates: bool = False
    image: str | None = None
    size: int | None = None
    resize: int | None = None
    crop: str | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_range: int | None = None
    white: float | None = None
    class_order: tuple[str, ...] | None = None

    name: ClassVar[str] = "parquet"

    def __post_init__(self) -> None:
        problems = held_problems(self._sizes, self.floor, self.rare_classes) + order_problems(
            self.class_order
        )
        if self.image is not None and self.features is not None:
            problems.append("image: must be left out where features are given, got both")
        if self._given_steps:
            problems += self._steps.problems()
            if self.features is not None:
                problems.append(f"{next(iter(self._given_steps))}: must be left out where features are given")
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def _given_steps(self) -> dict[str, Any]:
        """Keys of the preprocessing that are given."""
        values = {each.name: getattr(self, each.name) for each in fields(Preprocess)}
        return {key: value for key, value in values.items() if value is not None}

    @property
    def _steps(self) -> Preprocess:
        return Preprocess.of_keys(self._given_steps)

    @property
    def preprocess(self) -> Preprocess | None:
        """Steps from an encoded image to a sample; None for a table of features.

        Raises:
            ValueError: the file cannot be read.
        """
        return None if self._image is None else self._steps

    @cached_property
    def _image(self) -> str | None:
        """Column of the images; None for a table of features."""
        held = self._files.columns
        if self.image is not None:
            self._files.check([self.image])
            return self.image
        if self.features is not None:
            return None
        if "features" in held:
            column = None
        else:
            found = image_columns(self._files)
            column = "image" if "image" in found else found[0] if len(found) == 1 else None
            if column is None:
                hint = (
                    f"name one as image: {', '.join(found)}"
                    if found
                    else "columns of numbers are named by features, a list or a pattern such as 'f*'"
                )
                raise ValueError(
                    f"{self.path}: must have a column features, or one of encoded images, got "
                    f"{listed(list(held), 'columns', 12)}; {hint}"
                )
        if column is None and self._given_steps:
            raise ValueError(
                f"{self.path}: {next(iter(self._given_steps))} must be left out of a table of features; name the "
                "column of the images as image"
            )
        return column

    @property
    def input_columns(self) -> str | list[str]:
        """Column of the images or of the features, or columns of the features in their order."""
        return self._features if self._image is None else self._image

    @property
    def _sizes(self) -> dict[str, int | float | None]:
        return {"feedback": self.feedback, "select": self.select, "test": self.test}

    @cached_property
    def _files(self) -> TableSource:
        return find_files(self.path)

    @cached_property
    def _features(self) -> str | list[str]:
        """Feature columns of the table."""
        others = [name for name in (self.label, self.group, self.split, self.unit) if name is not None]
        return matched_columns(list(self._files.columns), self.features or "features", others, self.path)

    @cached_property
    def _labelled(self) -> Labelled:
        # Parts of the cache's key: a file that was written anew is read again.
        columns = (self.label, self.split, self.group, self.unit)
        labelled = _labelled_once(self._files, columns, self._files.stamp)
        return labelled if self.class_order is None else _in_order(labelled, self.class_order, self.path)

    @cached_property
    def _division(self) -> Division:
        return divide(self._labelled, self._sizes, self.floor, self.rare_classes, self.seed, self.path)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, sorted by their labels."""
        # Without a division: data whose classes are too few in a split still have names.
        return self._labelled.class_names if self.rare_classes == "refuse" else self._division.class_names

    @property
    def group_names(self) -> tuple[str, ...]:
        return self._labelled.group_names

    @cached_property
    def input_shape(self) -> tuple[int, ...]:
        # The labels first: what is wrong with them is the clearer problem.
        self._files.check([self.label])
        if self._image is not None:
            return (self._steps.channels, self._steps.size, self._steps.size)
        return (width_of(self._files, self._features),)

    @property
    def train_sizes(self) -> list[int]:
        """Training samples of each class."""
        return self.sizes_of("train")

    @property
    def has_own_splits(self) -> bool:
        """True if the table says the splits, not the sizes of this configuration."""
        return self._labelled.parts is not None

    def sizes_of(self, part: str) -> list[int]:
        """Samples of each class in a split."""
        division = self._division
        return torch.bincount(
            division.labels[division.rows[part]], minlength=len(division.class_names)
        ).tolist()

    @property
    def notes(self) -> list[str]:
        """Notes on what was done to read the table and to divide it, one line each."""
        told = []
        if self._image is not None:
            told = [f"image: column {self._image} holds encoded images"]
        elif not isinstance(wide := self._features, str):
            told = [f"features: {len(wide)} columns, {wide[0]} to {wide[-1]}"]
        files = self._files
        several = []
        if isinstance(files, ParquetFiles) and len(files.files) > 1:
            several = [f"path: {len(files.files)} files as one table"]
        return [*several, *told, *self._division.notes]

    @property
    def data_warnings(self) -> list[str]:
        """Doubts about the division, one line each."""
        return [*self._unused_splits(), *self._division.warnings]

    def _unused_splits(self) -> list[str]:
        """Warning of a column that names splits and is not used."""
        files = self._files
        if self.split is not None or "split" not in files.columns:
            return []
        names = values_of(files.read(["split"])["split"], "split", self.path, files.row).names
        if not all(split_named(name) for name in names):
            return []
        return [
            f"the column split names {', '.join(names)} and is not used; give data.split: split to use it"
        ]

    @property
    def folder_of_files(self) -> Path | None:
        """Folder of the images where the table holds their paths alone; None where it holds what a sweep reads.

        Raises:
            ValueError: the table cannot be read.
        """
        inputs = self._inputs() if self._image is not None else None
        return self._files.homes(0)[-1] if isinstance(inputs, Images) and inputs.files else None

    def sample_name(self, part: str, place: int) -> str:
        """Words for a sample of a split: its row in the table, from 0."""
        return self._files.row(int(self._division.rows[part][place]))

    def _split(self, part: str) -> Split:
        # Labels, then inputs, then their division: the first thing that is wrong is reported.
        labelled, whole = self._labelled, self._inputs()
        index = self._division.rows[part]
        inputs = whole[index]
        if isinstance(inputs, Images) and inputs.encoded is not None:
            # A buffer of its own: the bytes of test are no part of what a sweep holds.
            inputs = replace(inputs, encoded=inputs.encoded.compact())
        groups = None if labelled.groups is None else labelled.groups[index]
        return Split(inputs, self._division.labels[index], groups)

    def _inputs(self) -> Inputs:
        """All rows of the table as inputs."""
        files, stamp = self._files, self._files.stamp
        if self._image is not None:
            return _images_once(files, self._image, self._steps, stamp)
        return _features_once(files, _hashable(self._features), stamp)

    def load(self) -> SweepData:
        """Load train, feedback and select."""
        train, feedback, select, test = (self._split(part) for part in PARTS)
        # Of test only the digest is handed on.
        digests = {"train": train, "feedback": feedback, "select": select, "test": test}
        return SweepData(
            self.name,
            self.class_names,
            train,
            feedback,
            select,
            {key: s.digest() for key, s in digests.items()},
            self.group_names,
        )

    def load_test(self) -> Split:
        """Load the test split, kept apart from the data that a sweep sees."""
        return self._split("test")


def _hashable(names: str | Sequence[str]) -> str | tuple[str, ...]:
    return names if isinstance(names, str) else tuple(names)


# A check of a sweep file and its launch read the same table several times. One table only: it may take gigabytes.
@lru_cache(maxsize=1)
def _features_once(files: TableSource, names: str | tuple[str, ...], stamp: object) -> Tensor:
    return vectors(files, names)


@lru_cache(maxsize=1)
def _images_once(files: TableSource, name: str, steps: Preprocess, stamp: object) -> Images:
    return read_images(files, name, steps)


@lru_cache(maxsize=1)
def _labelled_once(
    files: TableSource, columns: tuple[str, str | None, str | None, str | None], stamp: object
) -> Labelled:
    return read_labelled(files, *columns)


def read_labelled(
    files: TableSource,
    label: str,
    split: str | None = None,
    group: str | None = None,
    unit: str | None = None,
) -> Labelled:
    """Read the labels and attributes of a table's rows; its inputs are not read.

    Args:
        files: the table.
        label: column of the labels, whole numbers or texts.
        split: column with the name of each row's split; None: the names of the files where they are those of splits.
        group: column of the groups, or None.
        unit: column of the units, or None.
    Raises:
        ValueError: a column is missing or has a row without a value, there are fewer than two classes or groups, or a
            name of no split.
    """
    where = files.path
    table = files.read([name for name in (label, split, group, unit) if name is not None])
    if not table.num_rows:
        raise ValueError(f"{where}: must have rows, got none")
    labels = values_of(table[label], label, where, files.row)
    if len(labels.names) < 2:
        raise ValueError(f"{where}: {label} must name at least two classes, got {list(labels.names)}")
    class_names, note = with_label_names(labels, files.schema, label, where, files.row)
    notes = [note] if note else []
    parts = None
    if split is not None:
        named = values_of(table[split], split, where, files.row)
        parts, told = parts_named(named.names, named.index, split, where)
        notes += told
    elif (by_file := _parts_of_files(files)) is not None:
        parts = by_file
        notes.append("split: the names of the files say it")
    groups = None if group is None else values_of(table[group], group, where, files.row)
    if groups is not None and len(groups.names) < 2:
        raise ValueError(f"{where}: {group} must name at least two groups, got {list(groups.names)}")
    units = None if unit is None else values_of(table[unit], unit, where, files.row)
    return Labelled(
        labels.index, class_names, parts,
        None if groups is None else groups.index, () if groups is None else groups.names,
        None if units is None else units.index, () if units is None else units.names, tuple(notes),
    )  # fmt: skip


def _in_order(labelled: Labelled, order: Sequence[str], where: str) -> Labelled:
    """Labels in the order of classes that was given.

    Raises:
        ValueError: the names are not those of the rows.
    """
    held = labelled.class_names
    if missing := [name for name in order if name not in held]:
        raise ValueError(f"{where}: class_names must be those of the rows, no row has {missing[0]!r}")
    if unnamed := [name for name in held if name not in order]:
        raise ValueError(f"{where}: class_names must name every class of the rows, it lacks {unnamed[0]!r}")
    place = torch.tensor([order.index(name) for name in held])
    return replace(labelled, labels=place[labelled.labels], class_names=tuple(order))


def _parts_of_files(files: TableSource) -> Tensor | None:
    """Split of each row from the names of the files, or of their folders; None where they name none.

    Raises:
        ValueError: some files are named by their split and others are not.
    """
    if not isinstance(files, ParquetFiles) or len(files.files) == 1:
        return None
    named = {file: _split_of_file(file, Path(files.path)) for file in files.files}
    if not any(named.values()):
        return None
    nameless = [file.name for file, part in named.items() if part is None]
    # All of them train: shards of one split, as `train-*.parquet` gives them.
    if not nameless and len(set(named.values())) == 1:
        return None
    if nameless:
        raise ValueError(
            f"{files.path}: all files must be named by their split or none, {nameless[0]} is not; name a column split, "
            "or the files to read by a pattern"
        )
    places = [PARTS.index(part) for part in named.values() if part is not None]
    return torch.repeat_interleave(torch.tensor(places), torch.tensor(files.rows))


def _split_of_file(file: Path, top: Path) -> str | None:
    """Split that the name of a file says, ``train-00000-of-00002.parquet``, or that of a folder below ``top``."""
    folders = file.relative_to(top).parts[:-1] if file.is_relative_to(top) else ()
    for text in (file.stem, *reversed(folders)):
        word = text.replace("_", "-").replace(".", "-").split("-")[0]
        if (part := split_named(word)) is not None:
            return part
    return None
