"""Files and folders that workers share, on a common path or in an object store."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from pyarrow.fs import FileSystem, LocalFileSystem, SubTreeFileSystem

from trainables.remote import fetched, written


@pytest.fixture
def store(tmp_path: Path) -> FileSystem:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "weights-0.safetensors").write_text("w")
    return SubTreeFileSystem(str(tmp_path), LocalFileSystem())


def test_what_is_on_a_common_path_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with fetched(None, str(tmp_path / "file")) as local:
        assert local == tmp_path / "file"
    assert local.is_file()
    with written(None, str(tmp_path / "new" / "folder")) as home:
        (home / "made").write_text("y")
    assert (tmp_path / "new" / "folder" / "made").read_text() == "y"


def test_a_fetched_file_keeps_its_name_and_goes_with_the_block(store: FileSystem) -> None:
    """Weights are read by the suffix of their file."""
    with fetched(store, "runs/a/weights-0.safetensors") as local:
        assert (local.name, local.read_text()) == ("weights-0.safetensors", "w")
    assert not local.parent.exists()


def test_a_fetched_folder_has_all_its_files(store: FileSystem) -> None:
    """A checkpoint in an object store, from which a run resumes."""
    with fetched(store, "runs/a") as local:
        assert (local.name, [path.name for path in local.iterdir()]) == ("a", ["weights-0.safetensors"])


def test_files_reach_a_store_at_the_end_of_the_block_and_only_without_an_error(
    store: FileSystem, tmp_path: Path
) -> None:
    target = tmp_path / "runs" / "b"
    target.mkdir()
    with contextlib.suppress(ZeroDivisionError), written(store, "runs/b") as home:
        (home / "made").write_text("y")
        raise ZeroDivisionError
    assert not list(target.iterdir())
    assert not home.exists()
    with written(store, "runs/b") as home:
        (home / "made").write_text("y")
        assert not list(target.iterdir())
    assert (target / "made").read_text() == "y"
