"""The data of a sweep as one file: its digest follows the content, and its size is that of the samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from selmix.data.images import Images
from selmix.data.splits import Split, SweepData
from selmix.data.stored import bytes_of, file_digest, load_data, save_data


def data() -> SweepData:
    part = Split(torch.arange(12.0).view(4, 3), torch.tensor([0, 1, 1, 0]), torch.tensor([1, 0, 1, 0]))
    return SweepData("tiny", ("ä b", "c"), part, part, part, {"train": part.digest()}, ("g", "h"))


def test_the_digest_is_of_the_content_and_not_of_the_name(tmp_path: Path) -> None:
    plain = save_data(tmp_path / "a.pt", data())
    assert plain == save_data(tmp_path / "deep" / "b.pt", data()) == file_digest(tmp_path / "a.pt")
    changed = [
        replace(data(), name="other"),
        replace(data(), class_names=("c", "ä b")),
        replace(data(), unlabelled=data().train),
        replace(data(), train=data().train.take(torch.tensor([0, 1, 3, 2]))),
        replace(data(), digests={}),
    ]
    assert len({plain, *(save_data(tmp_path / "a.pt", each) for each in changed)}) == 6


def test_names_digests_and_groups_come_back(tmp_path: Path) -> None:
    save_data(tmp_path / "a.pt", data())
    read = load_data(tmp_path / "a.pt")
    assert (read.class_names, read.group_names, read.unlabelled) == (("ä b", "c"), ("g", "h"), None)
    assert dict(read.digests) == dict(data().digests) == {"train": read.train.digest()}


def test_splits_are_counted_in_bytes_and_files_as_none() -> None:
    labels = torch.zeros(2).long()
    pixels = Split(Images(torch.zeros(2, 3, 4, 4, dtype=torch.uint8)), labels)
    files = Split(Images(files=("a", "b")), labels)
    assert bytes_of(data()) == 3 * 12 * 4
    assert bytes_of(replace(data(), train=pixels, feedback=files, unlabelled=pixels)) == 96 + 48 + 96


def test_a_file_that_is_missing_or_cut_off_or_of_something_else_is_named(tmp_path: Path) -> None:
    save_data(tmp_path / "cut.pt", data())
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:-200])
    torch.save({"name": "lacks the rest"}, tmp_path / "other.pt")
    torch.save(Path("code"), tmp_path / "code.pt")
    for name in ("cut.pt", "other.pt", "code.pt", "none.pt"):
        with pytest.raises(ValueError, match=f"{name}: must hold the data of a sweep, cannot be read"):
            load_data(tmp_path / name)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    digest = save_data(tmp_path / "a.pt", data())
    with pytest.raises(AttributeError):
        save_data(tmp_path / "a.pt", replace(data(), select=lambda: None))  # type: ignore[arg-type]
    assert file_digest(tmp_path / "a.pt") == digest
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
