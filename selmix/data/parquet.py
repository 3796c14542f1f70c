"""Feature vectors and labels from a Parquet file: any data and any backbone, embedded once by the user."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from selmix.data.longtail import split_by_class
from selmix.data.splits import Split, SweepData
from selmix.data.tables import FeatureTable, read_features

PARTS = ("train", "feedback", "select", "test")


@dataclass(frozen=True)
class ParquetConfig:
    """File and columns of the features, and their split.

    Attributes:
        path: of the file.
        label: column of the labels, whole numbers or texts.
        features: column of the features, lists of as many numbers in every row.
        group: column with the group of every row, a whole number or a text; None where there are no groups.
        split: column with train, feedback, select or test in every row; with None each class is split at random.
        feedback: samples per class, where there is no such column.
        select: samples per class, where there is no such column.
        test: samples per class, where there is no such column.
        seed: of the random split; the rest is train.
    Raises:
        ValueError: a size out of range. Reading the file (at the first use of its contents) raises ValueError too.
    """

    path: str
    label: str = "label"
    features: str = "features"
    group: str | None = None
    split: str | None = None
    feedback: int = 20
    select: int = 24
    test: int = 50
    seed: int = 0

    name: ClassVar[str] = "parquet"

    def __post_init__(self) -> None:
        problems = [
            f"{key}: must be >= {minimum} sample{'s' if minimum != 1 else ''} per class, got {getattr(self, key)}"
            for key, minimum in (("feedback", 0), ("select", 1), ("test", 1))
            if getattr(self, key) < minimum
        ]
        if problems:
            raise ValueError("\n".join(problems))

    @cached_property
    def _table(self) -> FeatureTable:
        path = Path(self.path)
        # Part of the cache's key: a file that was written anew is read again. read_features reports a missing one.
        status = path.stat() if path.is_file() else None
        stamp = (status.st_mtime_ns, status.st_size) if status is not None else None
        return _read_once(path, self.label, self.features, self.split, self.group, stamp)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._table.class_names

    @property
    def group_names(self) -> tuple[str, ...]:
        return self._table.group_names

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self._table.features.shape[1],)

    @property
    def train_sizes(self) -> list[int]:
        """Training samples of each class."""
        return torch.bincount(self._table.labels[self._parts[0]], minlength=len(self.class_names)).tolist()

    @cached_property
    def _parts(self) -> list[Tensor]:
        """Row numbers of train, feedback, select and test."""
        # With a column of splits the sizes of this configuration are not read.
        table = self._table
        if table.split is not None:
            unknown = sorted(set(table.split) - set(PARTS))
            if unknown:
                raise ValueError(
                    f"{self.path}: {self.split} must be one of {', '.join(PARTS)}, got {unknown[0]!r}"
                )
            return [
                torch.tensor([k for k, s in enumerate(table.split) if s == part]).long() for part in PARTS
            ]
        classes = len(table.class_names)
        held = [[count] * classes for count in (self.feedback, self.select, self.test)]
        requested = self.feedback + self.select + self.test
        sizes = torch.bincount(table.labels, minlength=classes)
        short = [
            f"class {name} has {count} rows, feedback, select and test take {requested} and train needs one"
            for name, count in zip(table.class_names, sizes.tolist(), strict=True)
            if count <= requested
        ]
        if short:
            raise ValueError(f"{self.path}: " + "; ".join(short))
        train = (sizes - requested).tolist()
        return split_by_class(table.labels, [train, *held], torch.Generator().manual_seed(self.seed))

    def _split(self, part: str) -> Split:
        index = self._parts[PARTS.index(part)]
        groups = None if self._table.groups is None else self._table.groups[index]
        return Split(self._table.features[index], self._table.labels[index], groups)

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


# A check of a sweep file and its launch read the same table several times. One table only: it may take gigabytes.
@lru_cache(maxsize=1)
def _read_once(
    path: Path, label: str, features: str, split: str | None, group: str | None, stamp: tuple[int, int] | None
) -> FeatureTable:
    return read_features(path, label, features, split, group)
