"""Atomic writes and functions of the user's own: the old content or the new one, and errors that say which."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from selmix.files import expanded_path, not_utf8, with_paths_expanded, written_aside
from selmix.user_code import is_reference, load_function


def test_a_file_appears_whole_in_a_folder_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ü b.txt"
    with written_aside(path) as aside:
        aside.write_text("new")
        assert not path.exists()
        assert aside.parent == path.parent
    assert path.read_text() == "new"
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_content_and_no_part(
    error: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted() -> None:
        with written_aside(path) as aside:
            aside.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_part_that_was_taken_away_is_the_error_of_the_write(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_aside(tmp_path / "a.txt") as aside:
        aside.unlink()
    assert list(tmp_path.iterdir()) == []


def test_two_writers_have_parts_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with written_aside(path) as first, written_aside(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the one whose block ends last


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_files_module.py").write_text(
        "import math\nvalue = 3\ndef f(): return 7\ndef _hidden(): ...\n"
    )
    (tmp_path / "own_broken_module.py").write_text("raise RuntimeError('at import')\n")
    (tmp_path / "own_empty_module.py").write_text("")
    (tmp_path / "own_script_module.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("own_files_module", "own_broken_module", "own_empty_module"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "own_files_module"


def test_a_function_is_imported_by_its_name(module: str) -> None:
    assert load_function(f"{module}:f")() == 7
    assert load_function("os.path:join")("a", "b") == str(Path("a/b"))
    assert is_reference("a:b")
    assert not is_reference("min_recall")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (":f", "must read package.module:function, got ':f'"),
        ("own_files_module:", "must read package.module:function"),
        ("own_files_module:f.g", "must read package.module:function"),
        ("own_files_module:g", "own_files_module has no function 'g'; it has f$"),
        ("own_files_module:value", "own_files_module has no function 'value'; it has f$"),
        ("own_empty_module:f", "own_empty_module has no function 'f'; it has none"),
        ("own_broken_module:f", "own_broken_module cannot be imported: RuntimeError: at import"),
        ("own_script_module:f", "own_script_module cannot be imported: SystemExit: 3"),
    ],
)
def test_what_cannot_be_imported_is_named(module: str, reference: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_function(reference)


@pytest.mark.parametrize(("content", "problem"), [
    ("a\nbär".encode("latin-1"), "2: must be UTF-8, got the byte 0xe4 at place 2 (Latin-1?); convert it: iconv"),
    ("a\n".encode("utf-16"), "1: must be UTF-8, got UTF-16; convert it: iconv -f utf-16 -t utf-8"),
])  # fmt: skip
def test_text_in_another_encoding_is_told_by_its_line(content: bytes, problem: str) -> None:
    assert not_utf8(content.split(b"\n")).startswith(problem)
    with pytest.raises(ValueError, match="must have a line that is no UTF-8"):
        not_utf8([b"a"])


def test_paths_are_read_as_people_write_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", "/data")
    assert expanded_path("~/x") == tmp_path / "x"
    assert expanded_path("$DATA/${DATA}x") == Path("/data//datax")
    assert expanded_path("a~b/x") == Path("a~b/x")
    monkeypatch.delenv("DATA")
    with pytest.raises(ValueError, match=r"must name variables that are set, got \$DATA in \$DATA/x"):
        expanded_path("$DATA/x")
    assert with_paths_expanded({"path": "~/x", "label": "~", "select": 3}) == {
        "path": f"{tmp_path}/x", "label": "~", "select": 3,
    }  # fmt: skip
    with pytest.raises(ValueError, match="root: must name variables"):
        with_paths_expanded({"root": "$DATA"})
