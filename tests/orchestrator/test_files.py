"""Files that are whole at any instant, and errors of the system in the user's words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import PreflightError
from orchestrator.files import (
    check_file_writable,
    check_writable,
    drop_torn_line_,
    read_json,
    write_atomically,
    write_json,
    writing,
)


def listed(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_write_replaces_the_file_and_makes_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    for content in (b"first", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert listed(path.parent) == ["file"]


def test_a_write_that_fails_half_way_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(_number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        PreflightError, match=r"file: must be writable: No space left on device; choose another --runs"
    ):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert listed(tmp_path) == ["file"]


def test_documents_keep_the_order_of_their_keys(tmp_path: Path) -> None:
    document: dict[str, Any] = {"z": 1, "a": {"b": [1.5, None, "ä"]}}
    write_json(tmp_path / "x.json", document)
    text = (tmp_path / "x.json").read_text()
    assert list(json.loads(text)) == ["z", "a"]
    assert text.endswith("}\n")
    assert read_json(tmp_path / "x.json") == document


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "must be a readable JSON document: .*No such file"),
        (b"{", "must be a readable JSON document"),
        (b"", "must be a readable JSON document"),
        (b"\xff{}", "must be a readable JSON document"),
        (b"[1]", "must be a JSON object, got list"),
        (b"null", "must be a JSON object, got NoneType"),
    ],
)
def test_what_is_no_json_object_is_named(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PreflightError, match=rf"x\.json: {says}"):
        read_json(path)


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"", b""),
        (b"a\n", b"a\n"),
        (b"a\nb", b"a\n"),
        (b"torn", b""),
        (b"a\n\n", b"a\n\n"),
        (b"a\n\xc3", b"a\n"),
    ],
)
def test_a_torn_line_is_cut_and_the_next_one_goes_to_the_end(
    tmp_path: Path, content: bytes, kept: bytes
) -> None:
    path = tmp_path / "lines"
    path.write_bytes(content)
    with path.open("a+b") as file:
        drop_torn_line_(file)
        drop_torn_line_(file)
        assert file.tell() == len(kept)
        file.write(b"next\n")
    assert path.read_bytes() == kept + b"next\n"


def test_errors_of_the_system_are_answered_with_advice_and_others_pass(tmp_path: Path) -> None:
    for error, reason in (
        (OSError("odd"), "odd"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
    ):
        with (
            pytest.raises(PreflightError, match=f"here: must be writable: {reason}; move it") as caught,
            writing(Path("here"), "move it"),
        ):
            raise error
        assert caught.value.__cause__ is error
    with pytest.raises(KeyError), writing(tmp_path):
        raise KeyError("x")


def test_a_folder_that_can_be_made_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "a" / "b")
    monkeypatch.chdir(tmp_path)
    check_writable(Path("relative/c"))
    check_writable(tmp_path)
    assert listed(tmp_path) == []


def test_a_folder_below_a_file_is_refused_with_the_advice_given(tmp_path: Path) -> None:
    # A rename over a device would replace it by a file, for every program of the machine.
    os.mkfifo(tmp_path / "pipe")
    refused = r"pipe: must be writable: no ordinary file lies there; move it"
    with pytest.raises(PreflightError, match=refused):
        check_file_writable(tmp_path / "pipe", "move it")
    with pytest.raises(PreflightError, match=refused):
        write_atomically(tmp_path / "pipe", b"", "move it")
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "file").write_text("")
    with pytest.raises(PreflightError, match=r"x\.yaml: must be writable: .*; choose another --pins folder"):
        check_writable(tmp_path / "file" / "x.yaml", "choose another --pins folder")


def test_a_file_that_exists_can_be_written_again_and_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("old")
    check_file_writable(tmp_path / "x.yaml")
    assert (tmp_path / "x.yaml").read_text() == "old"
    with pytest.raises(
        PreflightError, match=r"x\.yaml: must be writable: Not a directory; choose another --runs"
    ):
        check_writable(tmp_path / "x.yaml")


def test_a_file_is_refused_where_a_folder_lies_or_none_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check_file_writable(Path("x.yaml"))
    check_file_writable(tmp_path / "a" / "b" / "x.yaml")
    assert listed(tmp_path) == []
    (tmp_path / "x.yaml").mkdir()
    with pytest.raises(PreflightError, match=r"x\.yaml: must be writable: a folder lies there; move it"):
        check_file_writable(tmp_path / "x.yaml", "move it")
    (tmp_path / "file").write_text("")
    with pytest.raises(PreflightError, match=r"file/x\.yaml: must be writable: Not a directory; move it"):
        check_file_writable(tmp_path / "file" / "x.yaml", "move it")
