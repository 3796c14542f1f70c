"""Tables of the user's own: labels by name or place, groups by value, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from selmix.data.tables import read_scores

SCORES = [[0.1, 0.9, 0.0], [0.8, 0.2, 0.5]]


def write(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


def test_a_label_is_a_name_before_it_is_a_place(tmp_path: Path) -> None:
    table = read_scores(write(tmp_path, label=[1, 2], score_2=[0.1, 0.2], score_1=[0.3, 0.4]))
    assert table.class_names == ("2", "1")
    assert table.labels.tolist() == [1, 0]
    by_place = read_scores(write(tmp_path, label=[1, 0], score_cat=[0.1, 0.2], score_dög=[0.3, 0.4]))
    assert (by_place.class_names, by_place.labels.tolist()) == (("cat", "dög"), [1, 0])


def test_columns_of_scores_are_stacked_in_their_order(tmp_path: Path) -> None:
    path = write(tmp_path, score_b=[1, 2], other=["x", "y"], label=["a", "b"], score_a=[3.5, 4.5])
    table = read_scores(path)
    assert table.scores.tolist() == [[1.0, 3.5], [2.0, 4.5]]
    assert table.scores.dtype == torch.float32
    assert table.labels.tolist() == [1, 0]
    assert (table.groups, table.group_names) == (None, ())


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
    table = read_scores(write(tmp_path, label=[0, 1], scores=SCORES, group=values))
    assert table.groups is not None
    assert (table.groups.tolist(), table.group_names) == (groups, names)


def test_labels_are_whole_numbers_whatever_the_column_holds(tmp_path: Path) -> None:
    table = read_scores(write(tmp_path, label=[True, False], score_no=[0.1, 0.9], score_yes=[0.8, 0.2]))
    assert table.labels.dtype == torch.int64
    assert table.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0, 1], "scores": [[0.1], [0.2]]}, "must have a column scores with lists of K numbers"),
        (
            {"label": [0, 1], "scores": [["a", "b"], ["c", "d"]]},
            "scores must be numbers, as many for every row",
        ),
        ({"label": [0, 1], "score_a": ["x", "y"], "score_b": [0.1, 0.2]}, "scores must be numbers"),
        ({"label": [0, -1], "scores": SCORES}, "label must be one of 0, 1, 2, got -1"),
        ({"label": [0.5, 1], "scores": SCORES}, "label must be one of 0, 1, 2, got 0.5"),
        (
            {"label": [0, 1], "scores": SCORES, "group": ["a", "a"]},
            r"group must name at least two groups, got \['a'\]",
        ),
        (
            {"label": [0, 1], "scores": SCORES, "group": ["a", None]},
            "in every row, missing in group",
        ),
    ],
)
def test_scores_that_do_not_do(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path, **columns)
    with pytest.raises(ValueError, match=message) as caught:
        read_scores(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.parquet: must be a Parquet file, there is none"):
        read_scores(tmp_path / "none.parquet")
