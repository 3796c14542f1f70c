"""Fashion-MNIST: IDX files that are read and refused, the long tail of a seed, sizes, and the real files."""

from __future__ import annotations

import dataclasses
import gzip
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from orchestrator.spec.checks import load_spec
from selmix.config import FinetuneConfig
from selmix.data import official_files
from selmix.data.cifar import CifarConfig
from selmix.data.fashion_mnist import (
    CLASSES,
    MEAN,
    PACKAGE_FOLDER,
    STD,
    TEST_IMAGES,
    TRAIN_IMAGES,
    FashionMnistConfig,
)
from selmix.data.idx import read_idx
from selmix.data.images import Images
from selmix.data.longtail import long_tailed_counts
from selmix.data.splits import Split
from selmix.pseudo_labels import UnlabelledPool
from tests.command import here

REAL = FashionMnistConfig(os.environ.get("FASHION_MNIST", PACKAGE_FOLDER))
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
SIZES: dict[str, Any] = {
    "imbalance": 4, "largest_class": 12, "feedback": 3, "select": 4, "test": 5, "unlabelled": 6,
}  # fmt: skip


def idx(array: NDArray[np.uint8]) -> bytes:
    """An array as the bytes of an IDX file."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_fashion(
    folder: Path, compressed: bool = True, train: int = 30, test: int = 6
) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Write the four files with ``train`` and ``test`` images a class; returns images and labels of both."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    draw = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", test)):
        labels = draw.permutation(np.arange(count * CLASSES) % CLASSES).astype(np.uint8)
        images = draw.integers(0, 256, (count * CLASSES, 28, 28), dtype=np.uint8)
        for kind, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            if compressed:
                (folder / f"{prefix}-{kind}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / f"{prefix}-{kind}").write_bytes(idx(array))
        written[prefix] = images, labels
    return written


def pixels_of(split: Split) -> NDArray[np.uint8]:
    """Images of a split as they are stored, shape (n, 28, 28)."""
    assert isinstance(split.inputs, Images)
    assert split.inputs.pixels is not None
    array: NDArray[np.uint8] = split.inputs.pixels.squeeze(1).numpy()
    return array


def positions(split: Split, images: NDArray[np.uint8]) -> list[int]:
    """Positions of a split's images among all images, by comparing bytes."""
    place = {image.tobytes(): k for k, image in enumerate(images)}
    return [place[image.tobytes()] for image in pixels_of(split)]


@pytest.mark.parametrize("compressed", [True, False])
def test_splits_are_disjoint_parts_of_the_files_and_follow_the_rule(tmp_path: Path, compressed: bool) -> None:
    written = write_fashion(tmp_path, compressed)
    config = FashionMnistConfig(str(tmp_path), **SIZES, seed=3)
    data, test = config.load(), config.load_test()
    assert data.unlabelled is not None
    images, labels = written["train"]
    used: list[int] = []
    for split in (data.train, data.feedback, data.select, data.unlabelled):
        at = positions(split, images)
        assert split.labels.tolist() == labels[at].tolist()
        used += at
    assert len(used) == len(set(used)) == sum(config.train_sizes) + 10 * (3 + 4 + 6)
    counted = [int((data.train.labels == k).sum()) for k in config.class_order]
    assert counted == long_tailed_counts(10, 12, 4)
    for split, size in ((data.feedback, 3), (data.select, 4), (data.unlabelled, 6), (test, 5)):
        assert split.counts(10).tolist() == [size] * 10
    at = positions(test, written["t10k"][0])
    assert test.labels.tolist() == written["t10k"][1][at].tolist()
    assert data.digests["test"] == test.digest()
    assert data.input_shape == config.input_shape == (1, 28, 28)
    # Normalised with the constants of the data set.
    expected = (images[positions(data.train, images)[0]] / 255.0 - MEAN[0]) / STD[0]
    assert torch.allclose(data.train.whole()[0, 0].double(), torch.from_numpy(expected), atol=1e-5)
    UnlabelledPool(data.unlabelled, FinetuneConfig(second="oracle"))  # the true labels are there


def test_both_forms_of_the_files_are_the_same_data_and_may_stand_side_by_side(tmp_path: Path) -> None:
    digests = []
    for compressed in (True, False):
        write_fashion(tmp_path / str(compressed), compressed)
        digests.append(FashionMnistConfig(str(tmp_path / str(compressed)), **SIZES).load().digests)
    assert digests[0] == digests[1]
    mixed = tmp_path / "mixed"
    write_fashion(mixed, compressed=True)
    (mixed / f"{LABELS}.gz").unlink()
    (mixed / LABELS).write_bytes((tmp_path / "False" / LABELS).read_bytes())
    config = FashionMnistConfig(str(mixed), **SIZES)
    assert config.official.is_ready
    assert config.load().digests == digests[0]


@given(st.integers(0, 2**32), st.integers(1, 5000), st.floats(1, 500))
@settings(max_examples=50, deadline=None)
def test_the_seed_orders_the_classes(seed: int, largest: int, imbalance: float) -> None:
    config = FashionMnistConfig(seed=seed, largest_class=largest, imbalance=imbalance)
    assert sorted(config.class_order) == list(range(10))
    assert [config.train_sizes[k] for k in config.class_order] == long_tailed_counts(10, largest, imbalance)
    assert config.class_order == dataclasses.replace(config, largest_class=1, path="elsewhere").class_order


def test_every_class_is_the_tail_of_some_seed() -> None:
    """Brute force: over 2,000 seeds each class is the smallest in a tenth of them (3.5 standard errors)."""
    last = [FashionMnistConfig(seed=seed).class_order[-1] for seed in range(2000)]
    shares = np.bincount(last, minlength=10) / 2000
    assert np.abs(shares - 0.1).max() < 3.5 * (0.1 * 0.9 / 2000) ** 0.5


def test_the_split_does_not_share_the_numbers_of_the_order(tmp_path: Path) -> None:
    """Ten images a class: with one stream for both, a class would be shuffled as the classes are."""
    images, labels = write_fashion(tmp_path, train=10)["train"]
    same = 0
    for seed in range(30):
        sizes: dict[str, Any] = {"imbalance": 1, "largest_class": 8, "feedback": 1, "select": 1, "test": 1}
        config = FashionMnistConfig(str(tmp_path), **sizes, seed=seed)
        members = np.nonzero(labels == 0)[0].tolist()
        at = [members.index(place) for place in positions(config.load().train, images)[:8]]
        same += at == config.class_order[:8]
    assert same == 0


def test_all_test_images_are_one_split_for_every_seed(tmp_path: Path) -> None:
    images, labels = write_fashion(tmp_path)["t10k"]
    config = FashionMnistConfig(str(tmp_path), **SIZES | {"test": 6})
    splits = [dataclasses.replace(config, seed=seed).load_test() for seed in (0, 1)]
    assert splits[0].digest() == splits[1].digest()
    assert splits[0].labels.tolist() == labels.tolist()
    assert np.array_equal(pixels_of(splits[0]), images)
    fewer = [FashionMnistConfig(str(tmp_path), **SIZES, seed=seed).load_test().digest() for seed in (0, 1)]
    assert fewer[0] != fewer[1]


def test_an_idx_file(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    for name, content in (("a", idx(array)), ("a.gz", gzip.compress(idx(array)))):
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(read_idx(tmp_path / name, (2, 3)).numpy(), array)
    (tmp_path / "labels").write_bytes(idx(np.array([7, 0, 255], dtype=np.uint8)))
    assert read_idx(tmp_path / "labels", ()).tolist() == [7, 0, 255]


PLAIN = idx(np.arange(24, dtype=np.uint8).reshape(4, 2, 3))
WHOLE = gzip.compress(PLAIN, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("f", b"", "must begin with 16 bytes of header, got 0 bytes"),
        ("f", PLAIN[:15], "must begin with 16 bytes of header, got 15 bytes"),
        ("f", idx(np.zeros(4, np.uint8)),
         "magic number 2051 of IDX files of bytes in 3 dimensions, got 2049"),
        ("f", WHOLE, f"magic number 2051 of IDX files of bytes in 3 dimensions, got {0x1F8B0800}"),
        ("f", idx(np.zeros((4, 3, 2), np.uint8)), r"samples of shape \(2, 3\), got 4 of shape \(3, 2\)"),
        ("f", idx(np.zeros((0, 2, 3), np.uint8)), r"samples of shape \(2, 3\), got 0 of shape \(2, 3\)"),
        ("f", PLAIN[:-1], "must hold 24 bytes after its header, as that says, got 23"),
        ("f", PLAIN + b"0", "must hold 24 bytes after its header, as that says, got more"),
        ("f.gz", gzip.compress(PLAIN[:-4]), "must hold 24 bytes after its header, as that says, got 20"),
        ("f.gz", PLAIN, "must be a whole file compressed by gzip: Not a gzipped file"),
        ("f.gz", WHOLE[:-9], "must be a whole file compressed by gzip: Compressed file ended before"),
        ("f.gz", WHOLE[:-8] + bytes(8), "must be a whole file compressed by gzip: CRC check failed"),
        ("f.gz", WHOLE[:10] + b"\xff" * 20, "must be a whole file compressed by gzip: Error -3"),
    ],
    ids=[
        "empty", "header cut off", "of labels", "compressed without saying so", "turned", "no sample", "cut off",
        "too long", "compressed and cut off", "not compressed", "compression cut off", "wrong checksum", "garbled",
    ],
)  # fmt: skip
def test_damaged_idx_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_idx(tmp_path / name, (2, 3))
    assert str(caught.value).startswith(f"{tmp_path / name}: ")


def test_files_that_do_not_fit_each_other_are_named(tmp_path: Path) -> None:
    labels = write_fashion(tmp_path)["train"][1]
    config = FashionMnistConfig(str(tmp_path), **SIZES)

    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            dataclasses.replace(config).load()
        assert str(caught.value).startswith(str(tmp_path))

    (tmp_path / f"{LABELS}.gz").write_bytes(gzip.compress(idx(labels[:-1])))
    refused(rf"{IMAGES}\.gz: must hold one image for each of 299 labels, got 300")
    (tmp_path / f"{LABELS}.gz").write_bytes(
        gzip.compress(idx(np.where(labels == 9, 10, labels).astype(np.uint8)))
    )
    refused(rf"{LABELS}\.gz: labels must lie below 10, got 10")
    # A class short of images: sizes that the official files would hold.
    (tmp_path / f"{LABELS}.gz").write_bytes(
        gzip.compress(idx(np.where(labels == 2, 3, labels).astype(np.uint8)))
    )
    refused(
        rf"{LABELS}\.gz: class Pullover holds 0 samples, train, feedback and select and unlabelled ask for"
    )
    (tmp_path / f"{LABELS}.gz").unlink()
    refused(rf"there is no {LABELS}\[\.gz\]; install the package \(apt-get install dataset-fashion-mnist\)")
    write_fashion(tmp_path, test=4)
    refused(r"t10k-labels-idx1-ubyte\.gz: class T-shirt/top holds 4 samples, the sizes of test ask for 5")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"imbalance": 0.5}, "imbalance: must be >= 1, got 0.5"),
        ({"imbalance": float("nan")}, "imbalance: must be >= 1, got nan"),
        ({"largest_class": 0}, "largest_class: must be >= 1, got 0"),
        ({"feedback": -1}, "feedback: must be >= 0, got -1"),
        ({"select": 0}, "select: must be >= 1, got 0"),
        ({"unlabelled": -1}, "unlabelled: must be >= 0, got -1"),
        ({"test": 0}, "test: must be >= 1, got 0"),
        ({"test": 1001}, "test: must be <= 1000, the official test images of a class, got 1001"),
        ({"largest_class": 5000, "unlabelled": 701},
         r"must be <= 6000, the official training images of a class, got 5000 \+ 100 \+ 200 \+ 701 = 6001"),
    ],
)  # fmt: skip
def test_impossible_sizes_are_refused_without_the_files(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FashionMnistConfig("absent", **sizes)
    assert (
        sum(FashionMnistConfig("absent", largest_class=5000, unlabelled=700, imbalance=1).train_sizes)
        == 50_000
    )


def sweep_file(folder: Path, keys: str) -> Path:
    file = folder / "fashion.yaml"
    file.write_text(
        f"version: 1\nname: fashion\ndata: {{name: fashion_mnist, {keys}}}\nobjectives: [min_recall]\n"
        "model: {name: small_cnn}\npretrain: {recipe: erm, epochs: 1}\n"
    )
    return file


def test_on_the_command_line(tmp_path: Path) -> None:
    keys = "path: here, imbalance: 4, largest_class: 12, feedback: 10, select: 5, test: 6"
    file = sweep_file(tmp_path, keys)
    advice = "install the package (apt-get install dataset-fashion-mnist), or give the folder"
    for verb in (("validate",), ("data", "prepare"), ("data", "check"), ("plan",)):
        done = here(*verb, file, cwd=tmp_path)
        assert (done.code, done.out) == (4, ""), verb
        assert advice in " ".join(done.err.split())
        assert "Traceback" not in done.err
    write_fashion(tmp_path / "here")
    assert advice not in here("validate", file, cwd=tmp_path).err
    done = here("data", "prepare", file, "--json", cwd=tmp_path)
    assert done.code == 0
    assert done.document["counts"]["test"] == [6] * 10
    assert done.document["counts"]["train"] == load_and_count(file, tmp_path)
    assert done.document["problems"] == []
    assert done.document["input_shape"] == [1, 28, 28]
    checked = here("data", "check", file, "--json", cwd=tmp_path)
    assert checked.document["digests"] == FashionMnistConfig(
        str(tmp_path / "here"), 4, 12, 10, 5, 6
    ).load().digests  # fmt: skip
    (tmp_path / "here" / f"{IMAGES}.gz").write_bytes(b"no gzip")
    done = here("data", "check", file, cwd=tmp_path)
    assert done.code == 4
    assert f"here/{IMAGES}.gz: must be a whole file compressed by gzip" in " ".join(done.err.split())


def load_and_count(file: Path, folder: Path) -> list[int]:
    """Training samples of each class of a sweep file, counted in its label file."""
    keys = load_spec(file).data
    config = FashionMnistConfig(**{key: value for key, value in keys.items() if key != "name"})
    return dataclasses.replace(config, path=str(folder / config.path)).load().train_counts.tolist()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            "largest_class: 5000, feedback: 1000",
            "largest_class + feedback + select + unlabelled must be <= 6000",
        ),
        ("test: 2000", "test: must be <= 1000"),
        ("tests: 1000", "did you mean test?"),
        ("path: 3", "path: must be a text"),
    ],
)
def test_impossible_sweep_files_exit_3(tmp_path: Path, keys: str, message: str) -> None:
    done = here("validate", sweep_file(tmp_path, keys))
    assert (done.code, done.out) == (3, "")
    assert "fashion.yaml:3: data" in done.err
    assert message in " ".join(done.err.split())


def test_validate_says_where_official_archives_are_missing(tmp_path: Path) -> None:
    file = tmp_path / "cifar.yaml"
    file.write_text(
        "version: 1\nname: cifar\nobjectives: [min_recall]\nmodel: {name: resnet32}\n"
        "data: {name: cifar, path: absent, largest_class: 200}\n"
    )
    done = here("validate", file, "--json", cwd=tmp_path)
    assert (done.code, done.err) == (4, f"selmix: data: {CifarConfig('absent').official.advice}\n")


def test_the_package_is_what_the_official_files_are_without_a_path() -> None:
    official = official_files(FashionMnistConfig())
    assert official == FashionMnistConfig(PACKAGE_FOLDER).official
    assert official is not None
    assert official.folder == Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(
    not REAL.official.is_ready,
    reason=f"no Fashion-MNIST in {REAL.path}: apt-get install dataset-fashion-mnist, or FASHION_MNIST=FOLDER",
)
def test_the_real_files() -> None:
    """Sizes, constants and names against the files themselves, and the splits of the defaults."""
    everything = {}
    for part, prefix, count in (("train", "train", TRAIN_IMAGES), ("test", "t10k", TEST_IMAGES)):
        images = read_idx(REAL.official.located(f"{prefix}-images-idx3-ubyte"), (28, 28)).numpy()
        labels = read_idx(REAL.official.located(f"{prefix}-labels-idx1-ubyte"), ()).numpy()
        assert np.bincount(labels).tolist() == [count] * 10
        everything[part] = images, labels
    scaled = everything["train"][0] / 255.0
    assert scaled.mean() == pytest.approx(MEAN[0], abs=5e-5)  # as precise as the constants
    assert scaled.std() == pytest.approx(STD[0], abs=5e-5)
    config = dataclasses.replace(REAL, unlabelled=300)
    data, test = config.load(), config.load_test()
    assert data.unlabelled is not None
    used = [
        at
        for split in (data.train, data.feedback, data.select, data.unlabelled)
        for at in positions(split, everything["train"][0])
    ]
    assert len(set(used)) == len(used) == sum(long_tailed_counts(10, 1000, 100)) + 10 * 600
    assert [int(data.train_counts[k]) for k in config.class_order] == long_tailed_counts(10, 1000, 100)
    assert np.array_equal(pixels_of(test), everything["test"][0])
    assert test.labels.tolist() == everything["test"][1].tolist()
    # Trousers lie in the middle, and boots reach higher up than sneakers: the names stand in the order of the labels.
    mean = {
        name: scaled[everything["train"][1] == k].mean(axis=0) for k, name in enumerate(config.class_names)
    }
    assert mean["Trouser"].sum(axis=0).argsort()[-8:].min() >= 8
    assert mean["Ankle boot"][:8].sum() > 10 * mean["Sneaker"][:8].sum()
