"""CSV and TSV as tables of texts, and some rows of a table as a table."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pytest

from selmix.data.arrays import MemoryTable
from selmix.data.table_source import BatchOfRows
from selmix.data.text_table import TextTable, delimiter_of, is_text_table


def written(path: Path, text: str, encoding: str = "utf-8") -> TextTable:
    path.write_bytes(gzip.compress(text.encode(encoding)) if path.suffix == ".gz" else text.encode(encoding))
    return TextTable(str(path))


@pytest.mark.parametrize("name", ["t.csv", "t.TSV", "t.csv.gz"])
@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_every_cell_is_the_text_that_stands_there(name: str, sign: str, tmp_path: Path) -> None:
    assert is_text_table(tmp_path / name)
    rows = [["id", "x"], ["007", "1.50"], ["NA", ""], ['"two\nlines"', "nan"]]
    table = written(tmp_path / name, "\ufeff" + "\n".join(sign.join(row) for row in rows) + "\n")
    assert list(table.columns) == ["id", "x"]
    assert table.num_rows == 3
    assert table.read(["x", "id"]).to_pydict() == {
        "x": ["1.50", None, "nan"],
        "id": ["007", "NA", "two\nlines"],
    }
    assert [(start, batch.num_rows) for start, batch in table.batches(["id"], 2)] == [(0, 2), (2, 1)]
    assert table.homes(0) == [tmp_path]


def test_a_large_file_is_read_in_blocks(tmp_path: Path) -> None:
    lines = [f"{k},{'x' * 100}" for k in range(40_000)]
    table = written(tmp_path / "t.csv", "id,text\n" + "\n".join(lines))
    found = [(start, batch.column(0)[0].as_py()) for start, batch in table.batches(["id"], 4096)]
    assert found == [(start, str(start)) for start, _ in found]
    assert len(found) > 4
    assert table.num_rows == 40_000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must have a line with the names of the columns, got none"),
        ("a,a\n1,2\n", "line 1: every column must have a name of its own, got 'a' twice"),
        ("a,b\n1,2\n3\n", r"must have 2 cells in every line as the header, got 1 in line 3: '3'"),
        ("a,b\n1,2\n3,4,5\n", r"must have 2 cells in every line as the header, got 3 in line 3: '3,4,5'"),
    ],
)
def test_files_that_are_no_table(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        _ = written(tmp_path / "t.csv", text).read(["a"])


def test_other_encodings_and_missing_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be text in UTF-8"):
        _ = written(tmp_path / "a.csv", "größe,b\n1,2\n", "latin-1").columns
    with pytest.raises(ValueError, match="must be a CSV or TSV file in UTF-8"):
        _ = written(tmp_path / "b.csv", "a,b\n" + "1,2\n" * 9000 + "ö,2\n", "latin-1").read(["a"])
    with pytest.raises(ValueError, match="must have a column c, got a, b"):
        written(tmp_path / "c.csv", "a,b\n1,2\n").check(["c"])
    with pytest.raises(ValueError, match=r"none.csv: must be a CSV or TSV file"):
        _ = TextTable(str(tmp_path / "none.csv")).columns


def test_the_delimiter_is_that_of_the_header() -> None:
    assert [delimiter_of(text) for text in ("a,b", "a;b", "a\tb", "a", "a,b;c;d")] == [
        ",",
        ";",
        "\t",
        ",",
        ";",
    ]


def test_rows_of_a_table_keep_their_numbers() -> None:
    table = pa.table({"a": list(range(10)), "b": list("abcdefghij")})
    ((_, _), (start, batch), *_rest) = MemoryTable(table, "t").batches(["b", "a"], 4)
    rows = BatchOfRows(MemoryTable(table, "t"), start, batch)
    assert (rows.num_rows, rows.row(1), list(rows.columns)) == (4, "row 5", ["b", "a"])
    assert rows.one(2).read(["a"]).to_pydict() == {"a": [6]}
    assert rows.one(2).row(0) == "row 6"
    assert [(first, part.column(0).to_pylist()) for first, part in rows.batches(["b"], 3)] == [
        (0, ["e", "f", "g"]), (3, ["h"]),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="t: must have a column c, got b, a"):
        rows.check(["c"])
