"""Folders of images as people have them: names of splits, suffixes, hidden folders, order of the classes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from selmix.data.files import ImageFolderConfig, ImageListConfig
from selmix.data.folders import find_images, split_folders
from selmix.data.images import IMAGENET_MEAN, IMAGENET_STD, SUFFIXES
from selmix.weights import bytes_digest, tensor_digest

SMALL = {"size": 8, "feedback": 1, "select": 1, "test": 1}


def write(folder: Path, count: int, suffix: str = ".png", colour: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        Image.new("RGB", (9, 9), (colour, k, 0)).save(folder / f"{k}{suffix}", format="PNG")


def classes(top: Path, count: int = 4) -> None:
    for k, name in enumerate(("cat", "ant", "bee")):
        write(top / name, count, colour=k)


@pytest.mark.parametrize(("names", "select"), [
    (("Train", "Valid", "Test"), "Valid"), (("TRAIN", "VAL", "TEST"), "VAL"),
    (("training", "validation", "testing"), "validation"), (("train", "select", "val", "test"), "select"),
])  # fmt: skip
def test_folders_of_any_spelling_are_splits(names: tuple[str, ...], select: str, tmp_path: Path) -> None:
    for count, name in enumerate(names, start=2):
        classes(tmp_path / name, count)
    config = ImageFolderConfig(str(tmp_path), **SMALL)  # type: ignore[arg-type]
    data = config.load()
    assert data.class_names == ("ant", "bee", "cat")
    assert data.select.counts(3).tolist() == [names.index(select) + 2] * 3
    assert config.load_test().counts(3).tolist() == [len(names) + 1] * 3
    assert data.train_counts.tolist() == [1] * 3  # one of two is feedback
    if "val" in names:
        assert config.notes == ["left out val: select is select"]
    else:
        assert f"{select!r} is select" in config.notes


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    for name in ("Train", "val", "raw", ".ipynb_checkpoints", "__MACOSX"):
        classes(tmp_path / name)
    write(tmp_path / "test", 3)  # no class folders: no labels
    write(tmp_path / "Train" / "ant" / ".ipynb_checkpoints", 2)
    write(tmp_path / "Train", 2)
    (tmp_path / "Train" / "ant" / "._0.png").write_bytes(b"\0")
    for name in ("a.heic", "b.HEIC", "c.txt", "d"):
        (tmp_path / "Train" / "bee" / name).write_bytes(b"\0")
    config = ImageFolderConfig(str(tmp_path), **SMALL)  # type: ignore[arg-type]
    data = config.load()
    assert data.class_names == ("ant", "bee", "cat")
    assert data.train_counts.tolist() == [2] * 3  # of four one is feedback and one is test
    notes = "\n".join(config.notes)
    for expected in (
        "left out hidden folders: .ipynb_checkpoints, __MACOSX",
        "left out test: it has no class folders, so its images have no labels",
        "left out folders that name no split: raw",
        "left out 4 files of formats that are not read: 1 without a suffix, 2 .heic, 1 .txt (such as Train/bee/a.heic)",
        "left out hidden files and folders: Train/ant/._0.png, Train/ant/.ipynb_checkpoints",
        "left out 2 images of train that lie in no class folder",
        "'Train' is train\n'val' is select",
    ):
        assert expected in notes


def test_a_class_may_be_called_as_a_split_is(tmp_path: Path) -> None:
    for name in ("bus", "train", "car"):
        write(tmp_path / name, 4)
    assert ImageFolderConfig(str(tmp_path), **SMALL).class_names == ("bus", "car", "train")  # type: ignore[arg-type]


def test_folders_that_cannot_be_splits_are_refused(tmp_path: Path) -> None:
    classes(tmp_path / "valid")
    classes(tmp_path / "test")
    with pytest.raises(ValueError, match="must have a folder train with class folders beside test, valid"):
        split_folders(tmp_path)
    classes(tmp_path / "train")
    assert sorted(split_folders(tmp_path).folders) == ["select", "test", "train"]
    classes(tmp_path / "Val")
    with pytest.raises(ValueError, match="Val and valid both are select; rename or remove all but one"):
        split_folders(tmp_path)


def test_every_suffix_is_read_in_any_case(tmp_path: Path) -> None:
    for k, suffix in enumerate(sorted(SUFFIXES)):
        (tmp_path / f"{k}{suffix.upper() if k % 2 else suffix}").write_bytes(b"")
    assert len(find_images(tmp_path).images) == len(SUFFIXES)
    assert ".heic" not in SUFFIXES


@pytest.mark.parametrize(
    "suffix", [".png", ".jpg", ".Png", ".webp", ".bmp", ".tif", ".gif", ".jfif", ".ppm", ".tga"]
)
def test_images_of_these_suffixes_are_decoded(suffix: str, tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for k in range(4):
            kind = {".jfif": "JPEG"}.get(suffix)
            Image.new("RGB", (9, 9), (200, 10 * k, 0)).save(tmp_path / name / f"{k}{suffix}", format=kind)
    train = ImageFolderConfig(str(tmp_path), **SMALL).load().train  # type: ignore[arg-type]
    red = train.whole()[:, 0] * IMAGENET_STD[0] + IMAGENET_MEAN[0]
    assert torch.allclose(red, torch.full_like(red, 200 / 255), atol=0.02)


def test_classes_are_in_the_order_that_is_given(tmp_path: Path) -> None:
    classes(tmp_path)
    plain = ImageFolderConfig(str(tmp_path), **SMALL)  # type: ignore[arg-type]
    config = ImageFolderConfig(str(tmp_path), class_order=("cat", "bee", "ant"), **SMALL)  # type: ignore[arg-type]
    data = config.load()
    assert data.class_names == ("cat", "bee", "ant")
    red = ((data.train.whole()[:, 0] * IMAGENET_STD[0] + IMAGENET_MEAN[0]) * 255).round()
    assert red[:, 0, 0].tolist() == [{0: 0, 1: 2, 2: 1}[k] for k in data.train.labels.tolist()]
    assert plain.load().class_names == ("ant", "bee", "cat")
    for order, problem in ((("cat", "ant"), "must name every class folder, it lacks 'bee'"),
                           (("cat", "bee", "ant", "dog"), "must be its class folders, there is no 'dog'")):  # fmt: skip
        with pytest.raises(ValueError, match=problem):
            ImageFolderConfig(str(tmp_path), class_order=order, **SMALL).load()  # type: ignore[arg-type]
    for order, problem in ((("cat", "cat"), "class_names: must name each class once, got 'cat' again"),
                           (("cat",), "class_names: must name two or more classes")):  # fmt: skip
        with pytest.raises(ValueError, match=problem):
            ImageFolderConfig(str(tmp_path), class_order=order)


def test_classes_of_lists_have_the_names_that_are_given(tmp_path: Path) -> None:
    classes(tmp_path)
    lines = [f"{name}/{k}.png {label}" for label, name in enumerate(("ant", "bee", "cat")) for k in range(4)]
    (tmp_path / "all.txt").write_text("\n".join(lines))
    lists = (str(tmp_path / "all.txt"),) * 3
    named = ImageListConfig(str(tmp_path), *lists, feedback=1, size=8, class_order=("ant", "bee", "cat"))
    assert named.load().class_names == ("ant", "bee", "cat")
    with pytest.raises(ValueError, match="class_names must name its 3 classes, got 2"):
        ImageListConfig(str(tmp_path), *lists, feedback=1, size=8, class_order=("ant", "bee")).load()


def test_the_listing_of_earlier_versions_stays_what_it_was(tmp_path: Path) -> None:
    classes(tmp_path)
    write(tmp_path / "ant", 3, ".webp")
    write(tmp_path / ".hidden", 4)
    write(tmp_path / "ant" / ".deep", 2)
    before = ImageFolderConfig(str(tmp_path), listing=1, **SMALL)  # type: ignore[arg-type]
    assert before.class_names == (".hidden", "ant", "bee", "cat")
    assert before.train_sizes == [1, 3, 1, 1]
    now = ImageFolderConfig(str(tmp_path), **SMALL)  # type: ignore[arg-type]
    assert now.class_names == ("ant", "bee", "cat")
    assert now.train_sizes == [4, 1, 1]
    with pytest.raises(ValueError, match="listing: must be 1 or 2, got 3"):
        ImageFolderConfig(str(tmp_path), listing=3)


def test_a_folder_of_jpeg_and_png_has_the_digests_that_earlier_versions_gave_it(tmp_path: Path) -> None:
    """The formula of before, written out."""
    classes(tmp_path)
    for listing in (1, 2):
        config = ImageFolderConfig(str(tmp_path), listing=listing, **SMALL)  # type: ignore[arg-type]
        data = config.load()
        for part in ("train", "feedback", "select"):
            split = getattr(data, part)
            total = hashlib.sha256(f"{(3, 8, 8)}{IMAGENET_MEAN}{IMAGENET_STD}".encode())
            for file in split.inputs.files:
                total.update(hashlib.sha256(Path(file).read_bytes()).digest())
            expected = bytes_digest(f"sha256:{total.hexdigest()} {tensor_digest(split.labels)}".encode())
            assert data.digests[part] == expected
