"""Tables of the user's own: labels by name or place, groups by value, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from selmix.data.tables import read_features

SCORES = [[0.1, 0.9, 0.0], [0.8, 0.2, 0.5]]


def write(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


@pytest.mark.parametrize(
    ("values", "groups", "names"),
    [
        ([10, 9], [1, 0], ("9", "10")),
        (["b", "a"], [1, 0], ("a", "b")),
        ([True, False], [1, 0], ("False", "True")),
    ],
)
def test_groups_are_numbered_by_value(
    values: list[Any], groups: list[int], names: tuple[str, ...], tmp_path: Path
) -> None:
    features = read_features(write(tmp_path, y=values, x=SCORES, g=values), "y", "x", None, "g")
    assert (features.labels.tolist(), features.class_names) == (groups, names)
    assert features.groups is not None
    assert features.groups.tolist() == groups


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"y": [0, 1], "x": [[1.0], None]}, "values must be given in every row, missing in x"),
        ({"y": [0, 1], "x": [[1.0], [None]]}, "x must hold lists of numbers, got lists of double"),
        ({"y": [0, 1], "x": [[True], [False]]}, "x must hold lists of numbers, got lists of bool"),
        (
            {"y": [0, 1], "x": pa.array([[], []], pa.list_(pa.float32()))},
            r"as many numbers in every row, got \[0\]",
        ),
        ({"y": [0, 1], "x": [[1.0, 2.0], [3.0]]}, r"as many numbers in every row, got \[1, 2\]"),
        ({"y": [0, 1], "x": [[1.0], [float("inf")]]}, "x must be finite numbers"),
        (
            {"y": pa.array([], pa.int64()), "x": pa.array([], pa.list_(pa.float32()))},
            "must have rows, got none",
        ),
        ({"y": [0, 1], "z": [[1.0], [2.0]]}, "must have a column x, got y, z"),
    ],
)
def test_features_that_do_not_do(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_features(write(tmp_path, **columns), "y", "x", None)


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.large_list(pa.int32()), pa.list_(pa.float32(), 2)]
)
def test_lists_of_every_kind_are_read_across_batches(kind: pa.DataType, tmp_path: Path) -> None:
    rows = [[k, -k] for k in range(5000)]  # more than are decoded at once
    path = write(tmp_path, y=["a", "b"] * 2500, x=pa.array(rows, kind), part=["train"] * 5000)
    table = read_features(path, "y", "x", "part")
    assert torch.equal(table.features, torch.tensor(rows, dtype=torch.float32))
    assert table.split == ("train",) * 5000


def test_a_file_that_was_cut_off_or_is_none_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, y=[0, 1], x=[[1.0], [2.0]])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"t\.parquet: must be a Parquet file: "):
        read_features(path, "y", "x", None)
    with pytest.raises(ValueError, match=r"none\.parquet: must be a Parquet file, there is none"):
        read_features(tmp_path / "none.parquet", "y", "x", None)
