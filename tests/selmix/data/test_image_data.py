"""Loaders of the field's data sets, on small files in their official formats."""

from __future__ import annotations

import dataclasses
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from selmix.config import FinetuneConfig
from selmix.data.cifar import MEAN, STD, CifarConfig
from selmix.data.files import ImageFolderConfig, ImageListConfig
from selmix.data.images import IMAGENET_MEAN, IMAGENET_STD, Images
from selmix.data.longtail import long_tailed_counts
from selmix.data.splits import Split, join
from selmix.data.stl10 import StlConfig
from selmix.pseudo_labels import UnlabelledPool
from tests.command import here, selmix


def pixels(count: int, side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def cifar_labels(count: int, classes: int) -> np.ndarray:
    return (np.arange(count) % classes).astype(np.uint8)


def write_cifar(folder: Path, classes: int, version: str) -> tuple[np.ndarray, np.ndarray]:
    """Official files with 20 images a class in training and 2 in test; returns those of training, in order."""
    names = {10: ([f"data_batch_{k}" for k in range(1, 6)], "test_batch"), 100: (["train"], "test")}[classes]
    images, labels = pixels(20 * classes), cifar_labels(20 * classes, classes)
    for name, part in [
        *zip(names[0], np.array_split(np.arange(20 * classes), len(names[0])), strict=True),
        (names[1], np.arange(2 * classes)),
    ]:
        if version == "binary":
            coarse = [np.full(len(part), 7, np.uint8)] if classes == 100 else []
            rows = np.column_stack([*coarse, labels[part], images[part].reshape(len(part), -1)])
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        else:
            key = "labels" if classes == 10 else "fine_labels"
            batch = {"data": images[part].reshape(len(part), -1), key: labels[part].tolist()}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return images, labels


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("version", ["binary", "python"])
def test_cifar(tmp_path: Path, classes: int, version: str) -> None:
    images, labels = write_cifar(tmp_path, classes, version)
    config = CifarConfig(str(tmp_path), classes, imbalance=8, largest_class=8, feedback=4, select=6, seed=1)
    data, test = config.load(), config.load_test()
    assert data.train_counts.tolist() == long_tailed_counts(classes, 8, 8)
    assert data.feedback.counts(classes).tolist() == [4] * classes
    assert data.select.counts(classes).tolist() == [6] * classes
    assert test.counts(classes).tolist() == [2] * classes
    assert data.input_shape == config.input_shape == (3, 32, 32)
    # Every sample is one of the file's, under its label, normalised.
    raw = data.train.whole()[0] * torch.tensor(STD[classes]).view(3, 1, 1) + torch.tensor(MEAN[classes]).view(
        3, 1, 1
    )
    distance = np.abs(images / 255.0 - raw.numpy()).reshape(len(images), -1).max(axis=1)
    assert distance.min() < 1e-5
    assert labels[distance.argmin()] == int(data.train.labels[0])
    assert config.load().digests == data.digests


def test_both_versions_of_cifar_are_the_same_data(tmp_path: Path) -> None:
    digests = []
    for version in ("binary", "python"):
        folder = tmp_path / version
        folder.mkdir()
        write_cifar(folder, 10, version)
        digests.append(
            CifarConfig(str(folder), largest_class=8, imbalance=4, feedback=2, select=2).load().digests
        )
    assert digests[0] == digests[1]


def test_unlabelled_images_of_cifar(tmp_path: Path) -> None:
    """M1 and rho_u of the paper's settings, apart from N1 and rho_l."""
    write_cifar(tmp_path, 10, "binary")
    config = CifarConfig(
        str(tmp_path),
        imbalance=8,
        largest_class=8,
        feedback=2,
        select=2,
        unlabelled_largest=6,
        unlabelled_imbalance=3,
    )
    data = config.load()
    assert data.unlabelled is not None
    assert data.unlabelled.counts(10).tolist() == long_tailed_counts(10, 6, 3)
    assert "unlabelled" in data.digests
    turned = dataclasses.replace(config, largest_class=2, imbalance=1, unlabelled_imbalance=1 / 3).load()
    assert turned.unlabelled is not None
    assert turned.unlabelled.counts(10).tolist() == long_tailed_counts(10, 6, 3)[::-1]
    with pytest.raises(ValueError, match="unlabelled_imbalance: must be >="):
        dataclasses.replace(config, unlabelled_imbalance=0.0)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, ("broken-into",))


def test_cifar_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"must hold data_batch_1\.bin or data_batch_1 of CIFAR-10"):
        CifarConfig(str(tmp_path)).load()
    write_cifar(tmp_path, 10, "binary")
    with pytest.raises(
        ValueError, match="class airplane holds 20 samples, train, feedback and select ask for 1700"
    ):
        CifarConfig(str(tmp_path)).load()
    (tmp_path / "test_batch.bin").write_bytes(b"short")
    with pytest.raises(ValueError, match="must be rows of 3073 bytes, got 5 bytes"):
        CifarConfig(str(tmp_path)).load_test()
    for path in tmp_path.glob("*.bin"):
        path.unlink()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": Evil(), "labels": [0]}))
    with pytest.raises(ValueError, match=r"UnpicklingError: it names (posix|os)\.mkdir"):
        CifarConfig(str(tmp_path)).load()
    assert not (tmp_path / "broken-into").exists()
    with pytest.raises(ValueError, match="classes: must be 10 or 100, got 20"):
        CifarConfig(str(tmp_path), classes=20)


def test_stl10(tmp_path: Path) -> None:
    images = pixels(80, 96)
    labels = cifar_labels(80, 10) + 1
    for part, count in (("train", 80), ("test", 20)):
        (tmp_path / f"{part}_X.bin").write_bytes(images[:count].transpose(0, 1, 3, 2).tobytes())  # by column
        (tmp_path / f"{part}_y.bin").write_bytes(labels[:count].astype(np.uint8).tobytes())
    config = StlConfig(str(tmp_path), imbalance=2, largest_class=4, feedback=1, select=2)
    data, test = config.load(), config.load_test()
    assert data.train_counts.tolist() == long_tailed_counts(10, 4, 2)
    assert isinstance(test.inputs, Images)
    assert test.inputs.pixels is not None
    assert np.array_equal(test.inputs.pixels.numpy(), images[:20])
    assert test.labels.tolist() == [k % 10 for k in range(20)]
    (tmp_path / "unlabeled_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())
    sizes: dict[str, Any] = {"imbalance": 2, "largest_class": 4, "feedback": 1, "select": 2}
    unlabelled = StlConfig(str(tmp_path), **sizes, unlabelled=30).load().unlabelled
    assert unlabelled is not None
    assert isinstance(unlabelled.inputs, Images)
    assert unlabelled.inputs.pixels is not None
    assert unlabelled.labels.tolist() == [-1] * 30
    of = {image.tobytes(): k for k, image in enumerate(images)}
    drawn = [of[image.numpy().tobytes()] for image in unlabelled.inputs.pixels]
    assert drawn == sorted(set(drawn))
    assert drawn != list(range(30))
    assert (
        StlConfig(str(tmp_path), **sizes, unlabelled=30).load().digests["unlabelled"] == unlabelled.digest()
    )
    with pytest.raises(ValueError, match="for each of at least 81 images"):
        StlConfig(str(tmp_path), **sizes, unlabelled=81).load()
    with pytest.raises(ValueError, match="second: oracle needs the true labels"):
        UnlabelledPool(unlabelled, FinetuneConfig(second="oracle"))
    (tmp_path / "train_y.bin").write_bytes(bytes([11] * 80))
    with pytest.raises(ValueError, match="labels must lie in 1 to 10, got 11 to 11"):
        StlConfig(str(tmp_path), imbalance=2, largest_class=4, feedback=1, select=2).load()
    (tmp_path / "train_X.bin").write_bytes(b"12")
    with pytest.raises(ValueError, match="must hold 96 x 96 x 3 bytes for each of 80 labels, got 2 bytes"):
        StlConfig(str(tmp_path)).load()


def write_class(folder: Path, colour: int, count: int, side: int = 20, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        image = torch.full((3, side, side + 10), colour, dtype=torch.uint8)
        # No two are equal, as JPEG files neither.
        image[0, :4, :4] = 15 * (first + k)
        suffix = "jpg" if k % 2 else "png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{k:02d}.{suffix}", quality=95)


def test_image_folder_dealt_at_random(tmp_path: Path) -> None:
    for name, colour, count in (("cat", 50, 9), ("ant", 200, 8)):
        write_class(tmp_path / name, colour, count)
    config = ImageFolderConfig(str(tmp_path), size=16, feedback=1, select=2, test=2, seed=3)
    data, test = config.load(), config.load_test()
    assert data.class_names == ("ant", "cat")
    assert data.train_counts.tolist() == [3, 4]
    parts = [data.train, data.feedback, data.select, test]
    files = [file for part in parts if isinstance(part.inputs, Images) for file in part.inputs.files]
    assert len(set(files)) == len(files) == 17
    ants = data.train.batch(torch.nonzero(data.train.labels == 0).flatten())
    assert ants.shape == (3, 3, 16, 16)
    expected = (200 / 255.0 - IMAGENET_MEAN[1]) / IMAGENET_STD[1]
    assert float((ants[:, 1] - expected).abs().max()) < 0.1
    assert len(join(data.train, data.feedback)) == 9
    assert data.train.take(data.train.labels == 1).whole().shape == (4, 3, 16, 16)


def test_image_folder_with_splits_of_its_own(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("val", 3), ("test", 2)):
        for name, colour in (("cat", 50), ("ant", 200)):
            write_class(tmp_path / part / name, colour, count)
    data = ImageFolderConfig(str(tmp_path), size=16, feedback=2).load()
    assert data.train_counts.tolist() == [4, 4]
    assert data.select.counts(2).tolist() == [3, 3]
    write_class(tmp_path / "test" / "dog", 1, 1)
    with pytest.raises(ValueError, match="classes must be those of train, got 'dog' too"):
        ImageFolderConfig(str(tmp_path), size=16).load()


def test_image_folder_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a folder of images, there is none"):
        ImageFolderConfig(str(tmp_path / "none")).load()
    with pytest.raises(ValueError, match="a folder for each of two or more classes, got 0"):
        ImageFolderConfig(str(tmp_path)).load()
    write_class(tmp_path / "cat", 1, 3)
    write_class(tmp_path / "ant", 1, 3)
    with pytest.raises(
        ValueError, match="class ant holds 3 samples, feedback, select, test and one for train ask for"
    ):
        ImageFolderConfig(str(tmp_path)).load()
    (tmp_path / "cat" / "01.jpg").write_bytes(b"no image")
    data = ImageFolderConfig(str(tmp_path), size=8, feedback=0, select=1, test=1).load()
    with pytest.raises(ValueError, match=r"cat/01.jpg: must be an image that Pillow reads"):
        [part.whole() for part in (data.train, data.select, ImageFolderConfig(
            str(tmp_path), size=8, feedback=0, select=1, test=1).load_test())]  # fmt: skip


def write_lists(folder: Path) -> ImageListConfig:
    """In the form of ImageNet_LT_train.txt: a path relative to the root and a label."""
    for part, count, first in (("train", 5, 0), ("val", 4, 5), ("test", 2, 9)):
        lines = []
        for label, name in enumerate(("n01", "n02", "n03")):
            write_class(folder / "data" / part / name, 60 * label, count, first=first)
            files = sorted((folder / "data" / part / name).iterdir())
            lines += [f"{part}/{name}/{file.name} {label}" for file in files]
        (folder / f"{part}.txt").write_text("\n".join(lines) + "\n")
    lists = (str(folder / f"{part}.txt") for part in ("train", "val", "test"))
    return ImageListConfig(str(folder / "data"), *lists, feedback=1, size=16)


def test_image_lists(tmp_path: Path) -> None:
    config = write_lists(tmp_path)
    data, test = config.load(), config.load_test()
    assert data.train_counts.tolist() == [5] * 3
    assert data.feedback.counts(3).tolist() == [1] * 3
    assert data.select.counts(3).tolist() == [3] * 3
    assert test.counts(3).tolist() == [2] * 3
    assert data.select.whole().shape == (9, 3, 16, 16)
    for line, message in {
        "a.jpg": r"train.txt:1: must read PATH LABEL", "a.jpg -1": r"train.txt:1: must read PATH LABEL",
    }.items():  # fmt: skip
        (tmp_path / "train.txt").write_text(line)
        with pytest.raises(ValueError, match=message):
            config.__class__(config.root, config.train_list, config.held_list, config.test_list).load()


def test_digests_follow_the_contents_of_files(tmp_path: Path) -> None:
    for name in ("cat", "ant"):
        write_class(tmp_path / name, 9, 4)
    config = ImageFolderConfig(str(tmp_path), size=8, feedback=1, select=1, test=1)
    before = config.load().digests
    Image.new("RGB", (30, 20)).save(tmp_path / "cat" / "00.png")
    after = ImageFolderConfig(str(tmp_path), size=8, feedback=1, select=1, test=1).load().digests
    assert sum(before[part] != after[part] for part in before) == 1


def test_images_refuse_to_join_tensors() -> None:
    images = Split(Images(torch.zeros(2, 3, 4, 4, dtype=torch.uint8)), torch.zeros(2).long())
    with pytest.raises(ValueError, match="splits of one kind"):
        join(images, Split(torch.zeros(1, 3, 4, 4), torch.zeros(1).long()))


def test_data_check_on_the_command_line(tmp_path: Path) -> None:
    config = write_lists(tmp_path)
    file = tmp_path / "lists.yaml"
    keys = ", ".join(
        f"{key}: '{getattr(config, key)}'" for key in ("root", "train_list", "held_list", "test_list")
    )
    file.write_text(
        f"version: 1\nname: lists\ndata: {{name: image_list, {keys}, feedback: 1, size: 16}}\n"
        "objectives: [min_recall]\nmodel: {name: torchvision/resnet18}\n"
    )
    assert here("validate", file).code == 0
    done = here("data", "check", file, "--json")
    assert done.code == 0, done.err
    assert done.document["counts"]["select"] == [3, 3, 3]
    assert done.document["digests"] == config.load().digests
    (tmp_path / "data" / "val" / "n02" / "00.png").write_bytes(b"")
    done = here("data", "check", file)
    assert done.code == 4
    assert "n02/00.png: must be an image that Pillow reads" in done.err
    done = here("data", "check", file, f"data.train_list={tmp_path}/nowhere.txt")
    assert done.code == 4
    assert "must be a list of images, there is none" in done.err


@pytest.mark.long
@pytest.mark.ray
def test_a_sweep_on_image_files(tmp_path: Path) -> None:
    """From an image folder to a winner: files are decoded in the workers."""
    for name, colour in (("cat", 50), ("ant", 120), ("bee", 200)):
        write_class(tmp_path / "images" / name, colour, 12)
    file = tmp_path / "folder.yaml"
    file.write_text(
        f"version: 1\nname: folder\ndata: {{name: image_folder, path: '{tmp_path}/images', size: 16, feedback: 2, "
        "select: 4, test: 2}\nobjectives: [min_recall]\nsearch: {num_trials: 2}\nparameters: {steps: {value: 20}}\n"
        "selection: {finalists: 1, replicates: 1}\n"
    )
    done = selmix("launch", file, cwd=tmp_path)
    assert done.code == 0, done.err
    document = selmix("show", "folder", "--json", cwd=tmp_path).document
    assert document["objectives"]["min_recall"]["winner"]["select"]["min_recall"]["value"] > 0.5


def test_a_list_is_utf_8_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    config = write_lists(tmp_path)
    plain = config.load().digests
    path = Path(config.train_list)
    content = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    assert config.load().digests == plain
    path.write_bytes(content + "images/Gr\xfcn.png 0\n".encode("latin-1"))
    line = content.count(b"\n") + 1
    with pytest.raises(ValueError, match=rf"train.*:{line}: must be UTF-8, got the byte 0xfc at place 10"):
        dataclasses.replace(config).load()


def test_data_check_says_preprocessing_kinds_and_what_is_left_out(tmp_path: Path) -> None:
    for name in ("Train/cat", "Train/ant", "Valid/cat", "Valid/ant", "Test/cat", "Test/ant"):
        write_class(tmp_path / name, len(name), 3, side=20 + len(name))
    Image.new("RGBA", (20, 20), (1, 2, 3, 4)).save(tmp_path / "Train" / "cat" / "clear.png")
    Image.fromarray(np.full((20, 20), 40000, np.uint16)).save(tmp_path / "Train" / "ant" / "deep.png")
    (tmp_path / "Train" / "ant" / "note.txt").write_text("")
    file = tmp_path / "images.yaml"
    file.write_text(
        f"version: 1\nname: images\ndata: {{name: image_folder, path: '{tmp_path}', feedback: 1, size: 32, "
        "allow_duplicates: true}\nobjectives: [min_recall]\n"
    )
    document = here("data", "check", file, "--json").document
    assert (document["preprocess"]["size"], document["preprocess"]["resize"]) == (32, 37)
    assert document["preprocess_digest"].startswith("sha256:")
    notes = "\n".join(document["notes"])
    assert "left out 1 files of formats that are not read: 1 .txt (such as Train/ant/note.txt)" in notes
    assert "1 of 20 images have transparency, which is dropped" in notes
    assert "1 of 20 images have sixteen bits, whose white is 65535" in notes
    done = here("validate", file)
    assert (
        "preprocess: 32 x 32, the centre of the shorter side at 37, bilinear; 0 to 1, mean 0.485" in done.err
    )


def test_a_decompression_bomb_is_a_problem_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_lists(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"val/n0\d/0\d\....: must be an image that fits in memory"):
        config.load().select.whole()
