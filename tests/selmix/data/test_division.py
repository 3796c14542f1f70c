"""Division of rows: names of splits, numbers and fractions, rare classes, whole units."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selmix.data.division import Division, Labelled, divide, held_problems, parts_named
from selmix.data.split_names import PARTS, split_named

NONE: dict[str, int | float | None] = {"feedback": None, "select": None, "test": None}


def table(counts: list[int], **more: Any) -> Labelled:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return Labelled(labels, tuple("abcdefghij"[: len(counts)]), **more)


def divided(
    rows: Labelled, sizes: dict[str, Any], floor: int = 1, rare: str = "refuse", seed: int = 0
) -> Division:
    return divide(rows, NONE | sizes, floor, rare, seed, "t")


def counts_of(division: Division, part: str) -> list[int]:
    classes = len(division.class_names)
    return torch.bincount(division.labels[division.rows[part]], minlength=classes).tolist()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("train", "train"), ("TRAIN", "train"), ("Training ", "train"), ("feedback", "feedback"), ("select", "select"),
        ("validation", "select"), ("Valid", "select"), ("VAL", "select"), (" dev", "select"), ("test", "test"),
        ("Testing", "test"), ("tst", None), ("", None), ("holdout", None),
    ],
)  # fmt: skip
def test_splits_have_the_names_that_people_give_them(text: str, part: str | None) -> None:
    assert split_named(text) == part


def test_names_of_a_column_are_read_and_said() -> None:
    parts, told = parts_named(["TRAIN", "Dev", "val", "test"], torch.tensor([0, 3, 2, 1, 0]), "fold", "t")
    assert [PARTS[k] for k in parts.tolist()] == ["train", "test", "select", "select", "train"]
    assert told == ("fold: 'Dev' is select, 'TRAIN' is train, 'val' is select",)
    assert parts_named(["train", "select"], torch.tensor([1]), "fold", "t")[1] == ()
    with pytest.raises(
        ValueError,
        match=r"t: fold must be one of train, .*in any case, got 'x', 'y'; name each of them so, or leave",
    ):
        parts_named(["train", "x", "y"], torch.tensor([0]), "fold", "t")


@pytest.mark.parametrize(
    ("sizes", "floor", "rare", "problem"),
    [
        ({"select": 0}, 1, "drop", "select: must be >= 1 sample per class, got 0"),
        ({"feedback": -1}, 1, "drop", "feedback: must be >= 0 samples per class, got -1"),
        ({"test": 1.0}, 1, "drop", "test: must be a number of samples per class, or a fraction below 1, got 1"),
        ({"test": 0.0}, 1, "drop", "test: must be a number of samples per class, or a fraction below 1, got 0"),
        ({"test": math.nan}, 1, "drop", "test: must be a number of samples per class, or a fraction below 1, got nan"),
        ({"test": 0.5, "select": 0.5}, 1, "drop", "test: the fractions must leave some rows to train, got 1 together"),
        ({}, 0, "pool", "floor: must be >= 1 sample per class, got 0"),
        ({}, 1, "Pool", "rare_classes: must be one of refuse, drop, pool, got 'Pool'"),
    ],
)  # fmt: skip
def test_keys_out_of_range(sizes: dict[str, Any], floor: int, rare: str, problem: str) -> None:
    assert held_problems(NONE | sizes, floor, rare) == [problem]


def test_keys_in_range() -> None:
    assert held_problems({"feedback": 0, "select": 1, "test": 0.5}, 1, "refuse") == []
    assert held_problems({"feedback": 0.0, "select": 0.4, "test": 0.5}, 3, "pool") == []


@given(
    counts=st.lists(st.integers(12, 60), min_size=2, max_size=4),
    share=st.sampled_from([0.1, 0.25, 1 / 3]),
    floor=st.integers(1, 3),
)
@settings(max_examples=25, deadline=None)
def test_a_fraction_is_of_each_class_rounded_and_a_floor_at_least(
    counts: list[int], share: float, floor: int
) -> None:
    division = divided(table(counts), {"feedback": share, "select": share, "test": 2}, floor)
    expected = [max(floor, int(count * share + 0.5)) for count in counts]
    assert counts_of(division, "feedback") == counts_of(division, "select") == expected
    assert counts_of(division, "test") == [2] * len(counts)
    every = torch.cat([division.rows[part] for part in PARTS])
    assert every.sort().values.tolist() == list(range(sum(counts)))


def test_the_numbers_that_are_not_given_have_defaults() -> None:
    division = divided(table([100, 99]), {})
    assert [len(division.rows[part]) for part in PARTS] == [11, 40, 48, 100]


def test_rare_classes_are_refused_dropped_or_pooled() -> None:
    rows, sizes = table([30, 3, 30, 9, 2]), {"feedback": 3, "select": 3, "test": 3}
    with pytest.raises(
        ValueError, match=r"^t: class b has 3 rows, feedback, select and test take 9 and train needs one; "
    ):
        divided(rows, sizes)
    dropped = divided(rows, sizes, rare="drop")
    assert dropped.class_names == ("a", "c")
    assert dropped.notes == ("rare_classes: drop left out 14 rows of b (3), d (9), e (2)",)
    assert torch.unique(rows.labels[torch.cat([dropped.rows[part] for part in PARTS])]).tolist() == [0, 2]
    assert counts_of(dropped, "train") == [21, 21]
    pooled = divided(rows, sizes, rare="pool")
    assert pooled.class_names == ("a", "c", "other")
    assert pooled.notes == ("rare_classes: pool made one class 'other' of 14 rows of b (3), d (9), e (2)",)
    assert counts_of(pooled, "train") == [21, 21, 5]
    # Of the classes that are kept, the same rows are drawn wherever the others lie.
    assert divided(table([30, 30]), sizes, rare="drop").notes == ()


@pytest.mark.parametrize(
    ("counts", "rare", "names", "message"),
    [
        ([30, 2], "drop", "ab", r"rare_classes: drop must leave two classes at least, got \['a'\]"),
        ([30, 2, 3], "pool", "abc", r"after rare_classes: pool still class other has 5 rows"),
        ([30, 2, 30], "pool", ["a", "b", "other"], "pool makes a class 'other', which is there"),
        ([1] * 10, "refuse", "abcdefghij", r"t: 10 classes with too few rows: class a .*; and 7 more; ask"),
    ],
)  # fmt: skip
def test_rare_classes_that_cannot_be_helped(counts: list[int], rare: str, names: Any, message: str) -> None:
    rows = Labelled(table(counts).labels, tuple(names))
    with pytest.raises(ValueError, match=message):
        divided(rows, {"feedback": 3, "select": 3, "test": 3}, rare=rare)


def test_a_column_says_the_splits_and_what_it_names_nowhere_is_drawn_from_train() -> None:
    parts = torch.tensor([0] * 8 + [2] * 2 + [0] * 8 + [2] * 2)
    rows = table([10, 10], parts=parts)
    # Sizes of splits that it names are not read, and without a size nothing is drawn.
    division = divided(rows, {"select": 7})
    assert [division.rows[part].tolist() for part in ("feedback", "select", "test")] == [
        [],
        [8, 9, 18, 19],
        [],
    ]
    assert len(division.rows["train"]) == 16
    drawn = divided(rows, {"feedback": 2, "test": 0.25})
    assert [counts_of(drawn, part) for part in PARTS] == [[4, 4], [2, 2], [2, 2], [2, 2]]
    assert drawn.rows["select"].tolist() == [8, 9, 18, 19]
    assert drawn.notes == (
        "the column of splits names no feedback and no test: drawn from the rows of train",
    )
    with pytest.raises(ValueError, match="class a has 8 rows, feedback takes 8 and train needs one"):
        divided(rows, {"feedback": 8})


def test_a_class_that_a_split_of_the_column_lacks_is_rare() -> None:
    rows = table([4, 4, 2], parts=torch.tensor([0, 1, 2, 3] * 2 + [0, 1]))
    # Who reads the splits refuses them otherwise: the document of the data shows what is there.
    assert counts_of(divided(rows, {}), "select") == [1, 1, 0]
    dropped = divided(rows, {}, rare="drop")
    assert dropped.class_names == ("a", "b")
    assert [counts_of(dropped, part) for part in PARTS] == [[1, 1]] * 4
    assert dropped.labels.tolist()[8:] == [-1, -1]


@given(
    sizes=st.lists(st.integers(1, 5), min_size=24, max_size=60),
    seed=st.integers(0, 3),
    mixed=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_whole_units_are_drawn(sizes: list[int], seed: int, mixed: bool) -> None:
    units = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    # Units of one class each, or with rows of both.
    labels = torch.arange(len(units)) % 2 if mixed else units % 2
    rows = Labelled(labels, ("a", "b"), units=units, unit_names=tuple(map(str, range(len(sizes)))))
    division = divided(rows, {"feedback": 2, "select": 2, "test": 2}, seed=seed)
    homes = [set(units[division.rows[part]].tolist()) for part in PARTS]
    assert sum(map(len, homes)) == len(sizes)
    assert set.union(*homes) == set(range(len(sizes)))
    for part in PARTS[1:]:
        assert min(counts_of(division, part)) >= 2
    assert min(counts_of(division, "train")) >= 1
    assert division.warnings == ()


def test_units_of_one_row_each_give_the_sizes_that_are_asked_for() -> None:
    rows = table([30, 20], units=torch.arange(50), unit_names=tuple(map(str, range(50))))
    division = divided(rows, {"feedback": 4, "select": 5, "test": 6})
    assert [counts_of(division, part) for part in PARTS] == [[15, 5], [4, 4], [5, 5], [6, 6]]


def test_a_class_of_few_units_is_rare() -> None:
    units = torch.tensor([k // 3 for k in range(60)] + [90, 91, 92] * 20)
    labels = torch.tensor([k % 2 for k in range(60)] + [2] * 60)
    rows = Labelled(labels, ("a", "b", "c"), units=units, unit_names=tuple(map(str, range(93))))
    sizes = {"feedback": 2, "select": 2, "test": 2}
    with pytest.raises(ValueError, match="class c has 3 units, 4 splits need one each"):
        divided(rows, sizes)
    assert divided(rows, sizes, rare="drop").class_names == ("a", "b")


def test_units_that_cannot_be_divided_are_named() -> None:
    # One unit holds nearly all of class a: without it the others lack rows, and with it train has none.
    units = torch.tensor([0] * 30 + [1, 2, 3] + list(range(4, 40)))
    labels = torch.tensor([0] * 33 + [1] * 36)
    rows = Labelled(labels, ("a", "b"), units=units, unit_names=tuple(map(str, range(40))))
    with pytest.raises(ValueError, match=r"t: the 4 units of class a must be divided whole, \w+ still lacks"):
        divided(rows, {"feedback": 3, "select": 3, "test": 3})


def test_units_in_two_splits_of_a_column_are_said() -> None:
    parts, units = torch.tensor([0, 1, 2, 3, 0, 3]), torch.tensor([0, 1, 2, 0, 3, 3])
    rows = Labelled(
        torch.tensor([0, 1, 0, 1, 1, 0]), ("a", "b"), parts, units=units, unit_names=("p", "q", "r", "s")
    )
    (warning,) = divided(rows, {}).warnings
    assert warning.startswith("2 of 4 units lie in more than one split")
    assert warning.endswith("p (train and test), s (train and test)")
