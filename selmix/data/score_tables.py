"""Tables of labels, class scores or predictions, and groups: Parquet, CSV, TSV, and CSV under gzip.

Whatever a table lacks is said with its row, counted from 1 without the header, and of a text file with its line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selmix.data.score_files import ParquetFile, TextFile, open_file
from selmix.score_kinds import RowError


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
    file = open_file(path)
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
    return open_file(path).place(row)


class _Reader:
    """Reads the columns of one table, one at a time, so that the file is never held beside the tensors."""

    def __init__(self, file: ParquetFile | TextFile, columns: Columns) -> None:
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
