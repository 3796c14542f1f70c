"""A pin names files and never where they lay, and is reproduced where they lie now."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.pins.portable import located, portable
from orchestrator.records.paths import RunPaths


def test_paths_lose_the_place_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    section = {
        "path": str(tmp_path / "data" / "x.parquet"), "root": "/elsewhere/images", "train_list": "lists/train.txt",
        "label": "/not a path", "select": 5, "checkpoint": "~/base.pt", "init": None,
    }  # fmt: skip
    assert portable(section) == section | {"path": "data/x.parquet", "root": "images"}


def test_a_file_is_found_by_the_pin_by_the_sweep_or_by_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Folder:
        arrays_path = staticmethod(RunPaths(tmp_path / "moved").arrays_path)

        def load_spec(self) -> dict[str, dict[str, str]]:
            return {"data": {"path": "/first/x.parquet"}, "pretrain": {}}

    monkeypatch.chdir(tmp_path)
    pinned = {"data": {"path": "x.parquet", "select": 5}, "pretrain": {"checkpoint": None}}
    folder: object = Folder()
    assert located(pinned, None, ()) == pinned
    assert located(pinned, folder, ())["data"]["path"] == "/first/x.parquet"  # type: ignore[arg-type]
    # Data that Python gave lie in the folder of the sweep, which was moved since.
    (kept := Folder.arrays_path("x")).parent.mkdir(parents=True)
    kept.touch()
    assert located(pinned, folder, ())["data"]["path"] == str(kept)  # type: ignore[arg-type]
    (tmp_path / "x.parquet").touch()
    assert located(pinned, folder, ())["data"]["path"] == "x.parquet"  # type: ignore[arg-type]
    assert located(pinned, None, ["data.path=y"])["data"] == {"path": "y", "select": 5}
    for wrong in ("data.select=3", "data.path", "pretrain.checkpoint=x", "x=y"):
        with pytest.raises(UsageError, match=r"must be KEY=PATH with one of data\.path, got"):
            located(pinned, None, [wrong])
