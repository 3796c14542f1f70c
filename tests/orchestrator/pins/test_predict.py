"""``selmix predict`` on the command line: files, exit codes, and what is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.pins import predict as module
from orchestrator.pins.predict import RowCounter
from tests.command import here
from tests.selmix.test_pinned import pinned


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a pin on two features, and tables."""
    (tmp_path / "pins").mkdir()
    pinned(
        tmp_path / "pins" / "kept.yaml", (2,), "linear_head", data={"name": "parquet"}, columns=["f0", "f1"]
    )
    (tmp_path / "t.csv").write_text("id,f0,f1\n007,1,2\n8,3,4\n")
    (tmp_path / "bad.csv").write_text("id,f0,f1\n" + "".join(f"{k},x,1\n" for k in range(12)) + "9,1,2\n")
    return tmp_path


def test_predictions_are_written_and_said(home: Path) -> None:
    done = here("predict", "kept", "t.csv", "--out", "o.csv", cwd=home)
    assert (done.code, done.err) == (0, "")
    assert done.out == "o.csv: 2 rows predicted by pins/kept.yaml\n"
    lines = (home / "o.csv").read_text().splitlines()
    assert lines[0] == '"id","predicted","probability_ant","probability_bee","probability_cat"'
    assert lines[1].startswith('"007","')
    document = here("predict", "pins/kept.yaml", "t.csv", "-o", "o.parquet", "--json", cwd=home).document
    assert (document["rows"], document["unpredicted"], document["problems"]) == (2, 0, [])
    assert document["columns"][0] == "predicted"
    assert pq.read_table(home / "o.parquet").column_names == ["id", *document["columns"]]


def test_columns_of_the_pin_stand_in_its_order_however_they_are_named(home: Path) -> None:
    (home / "turned.csv").write_text("f1,id,f0\n2,007,1\n4,8,3\n")
    answers = []
    for arguments in (
        ("t.csv",),
        ("turned.csv",),
        ("turned.csv", "--input", "f*"),
        ("turned.csv", "--input", "f1,f0"),
    ):
        done = here("predict", "kept", *arguments, "-o", "o.csv", "--keep", "id", cwd=home)
        assert done.code == 0, done.err
        answers.append((home / "o.csv").read_text())
    assert len(set(answers)) == 1
    # Other names stand in the order in which they are named.
    (home / "other.csv").write_text("b,id,a\n2,007,1\n4,8,3\n")
    assert (
        here("predict", "kept", "other.csv", "--input", "a,b", "-o", "o.csv", "--keep", "id", cwd=home).code
        == 0
    )
    assert (home / "o.csv").read_text() == answers[0]
    (home / "mixed.csv").write_text("f0,id,f2\n1,007,2\n")
    done = here("predict", "kept", "mixed.csv", "--input", "f*", "-o", "no.csv", cwd=home)
    assert done.code == 4
    assert "mixed.csv: --input must name the columns of the pin, or columns of other names" in done.err
    assert "got f0 of the pin beside f2; leave --input out" in done.err
    (home / "few.csv").write_text("f0,id\n1,007\n")
    done = here("predict", "kept", "few.csv", "--input", "f*", "-o", "no.csv", cwd=home)
    assert "got f0 of the pin without f1;" in done.err
    assert not (home / "no.csv").exists()


def test_rows_without_a_prediction_end_with_exit_code_4_and_the_file_is_whole(home: Path) -> None:
    done = here("predict", "kept", "bad.csv", "--out", "o.csv", cwd=home)
    assert (done.code, done.out) == (4, "o.csv: 1 row predicted by pins/kept.yaml\n")
    lines = done.err.splitlines()
    assert lines[0] == "selmix: bad.csv: f0 must be a number, got 'x' in row 0"
    assert lines[9] == "selmix: bad.csv: f0 must be a number, got 'x' in row 9"
    assert lines[10:] == [
        "selmix: and 2 more; --json names the first 12",
        "selmix: 12 of 13 rows have no prediction in o.csv",
    ]
    assert len((home / "o.csv").read_text().splitlines()) == 14


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("kep", "t.csv", "-o", "o.csv"), 8, "pins/kep.yaml: no such pin; did you mean kept?"),
        (("kept", "t.csv", "-o", "o.json"), 2, "--out: must end in .parquet, .pq, .csv, got o.json"),
        (("kept", "t.csv", "-o", "t.csv"), 2, "--out: must be another file than the input, got t.csv"),
        (("kept", "t.csv", "-o", "o.csv", "--batch-size", "0"), 2, "--batch-size: must be >= 1, got 0"),
        (("kept", "none.csv", "-o", "o.csv"), 4, "none.csv: must be a Parquet file, there is none"),
        (("kept", "t.csv", "-o", "t.csv/o.csv"), 4, "must be writable: Not a directory; choose another --out"),
        (("kept", "t.csv", "-o", "o.csv", "--device", "moon"), 4, "--device: must be a device of this machine, got"),
        (("kept", "t.csv", "-o", "o.csv", "--keep", "a,b"), 4, "t.csv: must have a column a, got id, f0, f1"),
    ],
)  # fmt: skip
def test_what_cannot_be_predicted_is_one_line(
    home: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    before = sorted(home.iterdir())
    done = here("predict", *arguments, cwd=home)
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert len(done.err.splitlines()) == 1
    assert sorted(home.iterdir()) == before


def test_nothing_is_left_of_a_run_that_is_stopped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    table = pa.table({"f0": np.zeros(9), "f1": np.zeros(9)})
    pq.write_table(table, home / "t.parquet")
    before = sorted(home.iterdir())
    monkeypatch.setattr(RowCounter, "show", stopped)
    assert here("predict", "kept", "t.parquet", "-o", "o.csv", cwd=home).code == 130
    assert sorted(home.iterdir()) == before


def test_a_terminal_sees_the_rows_so_far(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for live, quiet, shown in (
        (True, False, "\r\033[K1,234 rows\r\033[K"),
        (True, True, ""),
        (False, False, ""),
    ):
        monkeypatch.setattr(module, "is_terminal", lambda _, live=live: live)
        with RowCounter(quiet) as counter:
            counter.show(1234)
            counter.show(1235)  # too soon
        assert capsys.readouterr().err == shown
