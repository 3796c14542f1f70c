"""Data as a file: the same samples, copied to a node once, and nothing but what was staged."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from selmix.data.digits import DigitsConfig
from selmix.data.images import Images
from selmix.data.splits import Split, SweepData
from selmix.data.stored import bytes_of, load_data, save_data
from trainables.staged import StagedData


@pytest.fixture(scope="module")
def digits() -> SweepData:
    return DigitsConfig(seed=0).load()


def variants(data: SweepData) -> list[SweepData]:
    """With groups, with unlabelled samples, with images in memory and in files."""
    count = len(data.train)
    grouped = replace(data.train, groups=torch.arange(count) % 2)
    pixels = Images(
        torch.arange(count * 3 * 4, dtype=torch.uint8).view(count, 3, 2, 2), size=2, std=(1.0, 2.0, 3.0)
    )
    files = Images(files=tuple(f"{k}.png" for k in range(count)))
    return [
        data,
        replace(data, train=grouped, group_names=("a", "b")),
        replace(data, unlabelled=data.select),
        replace(data, train=Split(pixels, data.train.labels)),
        replace(data, train=Split(files, data.train.labels)),
    ]


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second) and first.dtype == second.dtype
    if isinstance(first, SweepData | Split | Images):
        return type(first) is type(second) and all(
            same(value, getattr(second, key)) for key, value in vars(first).items()
        )
    return bool(first == second)


@pytest.mark.parametrize("kind", range(5))
def test_what_is_read_is_what_was_written(digits: SweepData, tmp_path: Path, kind: int) -> None:
    data = variants(digits)[kind]
    digest = save_data(tmp_path / "data.pt", data)
    assert same(load_data(tmp_path / "data.pt"), data)
    assert digest == save_data(tmp_path / "again" / "data.pt", data)
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_what_samples_take(digits: SweepData) -> None:
    splits = (digits.train, digits.feedback, digits.select)
    floats = sum(split.whole().numel() for split in splits)
    assert bytes_of(digits) == 4 * floats
    in_files = variants(digits)[4]
    assert bytes_of(in_files) == 4 * (floats - digits.train.whole().numel())


@pytest.mark.parametrize("stored", [False, True])
def test_a_node_copies_it_once(digits: SweepData, tmp_path: Path, stored: bool) -> None:
    path = tmp_path / "runs" / "data.pt"
    digest, reads = save_data(path, digits), []

    class Counted(SubTreeFileSystem):  # type: ignore[misc]
        def open_input_stream(self, *arguments: Any, **keywords: Any) -> Any:
            reads.append(arguments)
            return super().open_input_stream(*arguments, **keywords)

    filesystem = Counted(str(tmp_path), LocalFileSystem()) if stored else None
    staged = StagedData("runs/data.pt" if stored else str(path), digest, copied=True)
    node = tmp_path / "node"
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: staged.opened(filesystem, node), range(4)))
    assert all(same(data, digits) for data in opened)
    assert len(reads) == stored
    path.unlink()
    assert same(staged.opened(filesystem, node), digits)
    assert [p.suffix for p in (node / "selmix-data").iterdir() if p.suffix == ".part"] == []


def test_what_is_not_copied_is_mapped_where_it_lies(digits: SweepData, tmp_path: Path) -> None:
    staged = StagedData(str(tmp_path / "data.pt"), save_data(tmp_path / "data.pt", digits), copied=False)
    assert same(staged.opened(None, tmp_path / "node"), digits)
    assert not (tmp_path / "node").exists()


def test_other_data_are_refused(digits: SweepData, tmp_path: Path) -> None:
    path = tmp_path / "data.pt"
    staged = StagedData(str(path), save_data(path, digits), copied=True)
    save_data(path, variants(digits)[2])
    with pytest.raises(RuntimeError, match=r"the data staged for this sweep must be sha256:.* launch again"):
        staged.opened(None, tmp_path / "node")
    assert [p.name for p in (tmp_path / "node" / "selmix-data").iterdir() if p.suffix != ".lock"] == []


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "data.pt").write_bytes(b"no")
    with pytest.raises(ValueError, match="must hold the data of a sweep"):
        load_data(tmp_path / "data.pt")
