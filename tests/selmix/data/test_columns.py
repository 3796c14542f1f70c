"""Columns of a user's table: labels by value, features from lists or from many columns, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selmix.data.arrays import MemoryTable
from selmix.data.columns import label_names, matched_columns, values_of, vectors, width_of
from selmix.data.parquet import read_labelled
from selmix.data.parquet_files import find_files

VECTORS = [[0.1, 0.9, 0.0], [0.8, 0.2, 0.5]]


def write(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


def features_of(path: Path, names: str | list[str] = "x") -> torch.Tensor:
    files = find_files(str(path))
    read_labelled(files, "y")
    return vectors(files, names)


@pytest.mark.parametrize(
    ("values", "places", "names"),
    [
        ([10, 9], [1, 0], ("9", "10")),
        (["b", "a"], [1, 0], ("a", "b")),
        ([True, False], [1, 0], ("False", "True")),
        ([b"b", b"a"], [1, 0], ("a", "b")),
        (pa.array(["b", "a"], pa.large_string()), [1, 0], ("a", "b")),
        # As pandas writes categories: one of them is the value of no row.
        (pa.DictionaryArray.from_arrays([2, 1], ["unused", "a", "b"]), [1, 0], ("a", "b")),
    ],
)
def test_labels_and_groups_are_numbered_by_value(
    values: Any, places: list[int], names: tuple[str, ...], tmp_path: Path
) -> None:
    table = read_labelled(find_files(str(write(tmp_path, y=values, g=values))), "y", group="g")
    assert (table.labels.tolist(), table.class_names) == (places, names)
    assert table.groups is not None
    assert (table.groups.tolist(), table.group_names) == (places, names)


@given(st.lists(st.integers(-5, 5), min_size=1))
def test_every_value_has_its_place_among_the_sorted_ones(values: list[int]) -> None:
    found = values_of(pa.chunked_array([values[:3], values[3:]], pa.int64()), "y", "t", str)
    ordered = sorted(set(values))
    assert found.names == tuple(str(value) for value in ordered)
    assert found.index.tolist() == [ordered.index(value) for value in values]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, None], "values must be given in every row, missing in y: row 1$"),
        ([0.0, float("nan")], "values must be given in every row, missing in y: row 1$"),
        ([0] + [None] * 100, "missing in y: 100 rows: row 1, row 2, row 3 and 97 more$"),
        ([[0], [1]], r"y must hold whole numbers or texts, got list<"),
        ([b"\xff", b"\xfe"], "y must hold whole numbers or texts, got binary"),
        ([0, 0], r"y must name at least two classes, got \['0'\]"),
        (pa.array([], pa.int64()), "must have rows, got none"),
    ],
)
def test_labels_that_do_not_do(values: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_labelled(find_files(str(write(tmp_path, y=values))), "y")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"y": [0, 1], "x": [[1.0], None]}, "values must be given in every row, missing in x: row 1"),
        ({"y": [0, 1], "x": [[1.0], [None]]}, "lists of double with a value missing in row 1"),
        ({"y": [0, 1], "x": [[True], [False]]}, "x must hold lists of numbers, got lists of bool"),
        (
            {"y": [0, 1], "x": pa.array([[], []], pa.list_(pa.float32()))},
            r"as many numbers in every row, got \[0\]",
        ),
        ({"y": [0, 1], "x": [[1.0, 2.0], [3.0]]}, r"as many numbers in every row, got \[1, 2\]: 1 in row 1"),
        (
            {"y": [0, 1], "x": [[1.0, 1.0], [1.0, float("inf")]]},
            "x must be finite .* got inf in row 1, place 1",
        ),
        (
            {"y": [0, 1], "x": [[1.0], [1e300]]},
            r"x must be finite numbers \(as float32\), got 1e\+300 in row 1",
        ),
        ({"y": [0, 1], "z": [[1.0], [2.0]]}, "must have a column x, got y, z"),
    ],
)
def test_features_that_do_not_do(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        features_of(write(tmp_path, **columns))


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float64()), pa.large_list(pa.int32()), pa.list_(pa.float32(), 2), pa.list_(pa.float16()),
        pa.list_(pa.int16()),
    ],
)  # fmt: skip
def test_lists_of_every_kind_are_read_across_batches(kind: pa.DataType, tmp_path: Path) -> None:
    rows = [[k % 2000, -(k % 2000)] for k in range(5000)]  # more than are decoded at once
    path = write(tmp_path, y=["a", "b"] * 2500, x=pa.array(rows, kind))
    assert torch.equal(features_of(path), torch.tensor(rows, dtype=torch.float32))
    assert width_of(find_files(str(path)), "x") == 2


def test_columns_of_numbers_of_any_kind_are_features(tmp_path: Path) -> None:
    path = write(
        tmp_path, y=["a", "b"], f0=pa.array([1, 2], pa.uint8()), f1=[True, False],
        f2=pa.array(["0.5", "1.5"]).cast(pa.decimal128(4, 2)), f10=pa.array([1, -1], pa.float16()),
    )  # fmt: skip
    names = matched_columns(find_files(str(path)).schema.names, "f*", ["y"], "t")
    assert names == ["f0", "f1", "f2", "f10"]
    assert features_of(path, names).tolist() == [[1.0, 1.0, 0.5, 1.0], [2.0, 0.0, 1.5, -1.0]]
    assert width_of(find_files(str(path)), names) == 4


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["a", "b"], "f0 must hold numbers, or lists of numbers, got string"),
        ([1.0, None], "values must be given in every row, missing in f0: row 1"),
        ([float("nan"), 1.0], "f0 must be finite .* got nan in row 0"),
    ],
)
def test_columns_that_do_not_do(column: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        features_of(write(tmp_path, y=[0, 1], f0=column), ["f0"])


@pytest.mark.parametrize(
    ("wanted", "columns"),
    [
        ("f*", ["f1", "f0", "f[2]"]),
        (("f0", "f1"), ["f0", "f1"]),
        ("f[2]", "f[2]"),  # a name before it is a pattern
        ("f[01]", ["f1", "f0"]),
        ("y", "y"),
    ],
)
def test_a_pattern_keeps_the_order_of_the_table_and_a_list_its_own(wanted: Any, columns: Any) -> None:
    assert (
        matched_columns(["y", "f1", "f0", "f[2]", "final_split"], wanted, ["y", "final_split"], "t")
        == columns
    )


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("g*", r"t: features 'g\*' must match a column, got y, f0"),
        ("g", "t: must have a column g, got y, f0"),
        (["f0", "g"], "t: must have a column g"),
        (["f0", "f0"], "t: features must name each column once, got f0 again"),
    ],
)
def test_features_that_are_not_there(wanted: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        matched_columns(["y", "f0"], wanted, ["y"], "t")


def labelled(labels: list[int], stored: Any) -> MemoryTable:
    """A table with Hugging Face's metadata, or with whatever else stands under their name."""
    content = stored if isinstance(stored, str) else json.dumps({"info": {"features": {"y": stored}}})
    return MemoryTable(pa.table({"y": labels}).replace_schema_metadata({"huggingface": content}), "t")


NAMES = {"names": ["cat", "ape", "owl"], "_type": "ClassLabel"}


def test_class_names_are_those_of_the_metadata_in_the_order_of_the_labels() -> None:
    table = read_labelled(labelled([1, 0, 1], NAMES), "y")
    assert (table.class_names, table.labels.tolist()) == (("cat", "ape"), [1, 0, 1])
    assert table.notes == ("y: class names are those of the file's ClassLabel; no row has owl",)


@pytest.mark.parametrize(
    "stored", ["[]", "no json", {"_type": "Value"}, {"names": [1, 2], "_type": "ClassLabel"}]
)
def test_other_metadata_name_no_classes(stored: Any) -> None:
    table = labelled([1, 0], stored)
    assert label_names(table.schema, "y") is None
    assert read_labelled(table, "y").class_names == ("0", "1")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], "must be a place in the file's 3 class names, 0 to 2, got 3 in row 1$"),
        ([0, 1, -1], r"got -1 in row 2 \(-1 marks a row without a label\); leave such rows out$"),
    ],
)
def test_a_label_without_a_name_is_refused_by_its_row(labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_labelled(labelled(labels, NAMES), "y")


def test_names_that_are_not_distinct_are_not_used() -> None:
    table = read_labelled(labelled([0, 1], NAMES | {"names": ["cat", "cat"]}), "y")
    assert table.class_names == ("0", "1")
    assert "not distinct" in table.notes[0]


def test_a_file_that_was_cut_off_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, y=[0, 1], x=[[1.0], [2.0]])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"t\.parquet: must be a Parquet file: "):
        features_of(path)
