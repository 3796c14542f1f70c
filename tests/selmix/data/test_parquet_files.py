"""Several Parquet files as one table: folders, patterns, columns in the names of folders, splits in those of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selmix.data.parquet import ParquetConfig, read_labelled
from selmix.data.parquet_files import find_files


def part(path: Path, first: int, rows: int = 4, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = range(first, first + rows)
    columns = {"label": [k % 2 for k in numbers], "features": [[float(k), 1.0] for k in numbers]}
    pq.write_table(pa.table(columns | more), path)
    return path


def test_the_files_of_a_folder_follow_each_other_by_name(tmp_path: Path) -> None:
    for name, first in (("b.parquet", 4), ("a.PQ", 0), ("more/c.parquet", 8), ("_temporary/x.parquet", 90)):
        part(tmp_path / name, first)
    (tmp_path / "notes.txt").write_text("x")
    config = ParquetConfig(str(tmp_path), feedback=1, select=1, test=1)
    data = config.load()
    assert sorted(data.train.inputs[:, 0].tolist() + [
        x for split in (data.feedback, data.select, config.load_test()) for x in split.inputs[:, 0].tolist()
    ]) == list(range(12))  # fmt: skip
    assert config.notes == ["path: 3 files as one table"]
    files = find_files(str(tmp_path))
    assert [files.row(k) for k in (0, 4, 11)] == ["row 0 of a.PQ", "row 0 of b.parquet", "row 3 of c.parquet"]
    assert len(find_files(str(tmp_path / "[ab].*")).files) == 2


def test_a_table_in_pieces_is_the_table(tmp_path: Path) -> None:
    whole = part(tmp_path / "whole.parquet", 0, 40)
    part(tmp_path / "pieces" / "0.parquet", 0, 15)
    part(tmp_path / "pieces" / "1.parquet", 15, 25)
    sizes = {"feedback": 3, "select": 3, "test": 3}
    one, several = (ParquetConfig(str(p), **sizes) for p in (whole, tmp_path / "pieces"))
    assert one.load().digests == several.load().digests


def test_names_of_folders_are_columns(tmp_path: Path) -> None:
    for k, name in enumerate(("train", "feedback", "Validation", "test")):
        part(tmp_path / f"part={name}" / "site=1" / "0.parquet", 4 * k)
        part(tmp_path / f"part={name}" / "site=12" / "0.parquet", 4 * k + 16)
    config = ParquetConfig(str(tmp_path), split="part", group="site")
    data = config.load()
    assert data.train.inputs[:, 0].tolist() == [0, 1, 2, 3, 16, 17, 18, 19]
    assert data.group_names == ("1", "12")
    assert data.select.inputs[:, 0].min() == 8


def test_names_of_files_say_the_split_where_they_are_those_of_splits(tmp_path: Path) -> None:
    for k, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "validation-0", "Test")):
        part(tmp_path / "data" / f"{name}.parquet", 4 * k)
    config = ParquetConfig(str(tmp_path), feedback=1)
    data = config.load()
    assert (len(data.train), len(data.feedback), len(data.select), len(config.load_test())) == (6, 2, 4, 4)
    assert config.notes == [
        "path: 4 files as one table", "split: the names of the files say it",
        "the column of splits names no feedback: drawn from the rows of train",
    ]  # fmt: skip
    assert data.select.inputs[:, 0].tolist() == [8, 9, 10, 11]


def test_shards_of_one_split_are_a_table_to_draw_from(tmp_path: Path) -> None:
    for k in range(2):
        part(tmp_path / f"train-{k}.parquet", 10 * k, 10)
    assert len(ParquetConfig(str(tmp_path), feedback=1, select=1, test=1).load().train) == 14


def test_files_of_which_some_are_named_by_a_split_are_refused(tmp_path: Path) -> None:
    part(tmp_path / "train.parquet", 0)
    part(tmp_path / "extra.parquet", 4)
    with pytest.raises(ValueError, match=r"named by their split or none, extra\.parquet is not"):
        ParquetConfig(str(tmp_path)).load()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", r"empty: must hold Parquet files \(\.parquet, \.pq\), there is none"),
        ("none.parquet", r"none\.parquet: must be a Parquet file, there is none"),
        ("no*", r"no\*: must be a Parquet file, there is none"),
    ],
)
def test_paths_without_a_table(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        find_files(str(tmp_path / name))


def test_columns_of_another_type_in_another_file_are_refused(tmp_path: Path) -> None:
    part(tmp_path / "a.parquet", 0)
    part(tmp_path / "b.parquet", 4, label=["x", "y", "x", "y"])
    with pytest.raises(ValueError, match="columns must have one type in all files"):
        read_labelled(find_files(str(tmp_path)), "label")
    part(tmp_path / "b.parquet", 4, features=[[1.0]] * 4)
    with pytest.raises(
        ValueError, match=r"as many numbers in every row, got \[1, 2\]: 1 in row 0 of b\.parquet"
    ):
        ParquetConfig(str(tmp_path), feedback=1, select=1, test=1).load()
    (tmp_path / "b.parquet").write_text("no table")
    with pytest.raises(ValueError, match=r"b\.parquet: must be a Parquet file"):
        find_files(str(tmp_path)).check(["label"])
