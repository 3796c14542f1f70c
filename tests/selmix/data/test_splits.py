"""Splits of every data set: disjoint, as large as configured, and digests that follow the content alone."""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selmix.data import (
    DATA,
    Split,
    SweepData,
    build_data_config,
    has_groups,
    official_files,
    unlabelled_key,
)
from selmix.data.cifar import CifarConfig
from selmix.data.digits import SAMPLES_OF_CLASS, DigitsConfig
from selmix.data.fashion_mnist import FashionMnistConfig
from selmix.data.files import ImageFolderConfig
from selmix.data.gaussians import GaussiansConfig
from selmix.data.longtail import long_tailed_counts, split_by_class
from selmix.data.parquet import ParquetConfig
from selmix.data.sizes import check_held, size_problems
from selmix.data.splits import join
from selmix.data.stl10 import StlConfig
from tests.selmix.data.test_archives import stl_files
from tests.selmix.data.test_fashion_mnist import write_fashion
from tests.selmix.data.test_image_data import write_cifar, write_class, write_lists

Written = Callable[[Path, int], Any]


def table(folder: Path, seed: int, **options: Any) -> ParquetConfig:
    rows = np.random.default_rng(0).normal(size=(60, 3))
    columns = {"label": [k % 3 for k in range(60)], "features": rows.tolist(), "other": list(range(60))}
    pq.write_table(pa.table(columns), folder / "t.parquet", **options)
    return ParquetConfig(str(folder / "t.parquet"), feedback=3, select=4, test=5, seed=seed)


def cifar(folder: Path, seed: int) -> CifarConfig:
    write_cifar(folder, 10, "binary")
    return CifarConfig(
        str(folder), imbalance=4, largest_class=8, feedback=3, select=4, unlabelled_largest=4, seed=seed
    )


def stl(folder: Path, seed: int) -> StlConfig:
    stl_files(folder / "stl")
    return StlConfig(str(folder / "stl"), imbalance=2, largest_class=4, feedback=1, select=3, seed=seed)


def fashion(folder: Path, seed: int) -> FashionMnistConfig:
    write_fashion(folder)
    return FashionMnistConfig(
        str(folder), imbalance=2, largest_class=4, feedback=3, select=4, test=5, unlabelled=6, seed=seed
    )


def folders(folder: Path, seed: int) -> ImageFolderConfig:
    for colour, name in enumerate(("ant", "bee")):
        write_class(folder / name, 60 * colour, 14)
    return ImageFolderConfig(str(folder), size=8, feedback=3, select=4, test=5, seed=seed)


WRITTEN: dict[str, Written] = {
    "digits": lambda _, seed: DigitsConfig(feedback=3, select=4, test=5, unlabelled=6, seed=seed),
    "digits of two inks": lambda _, seed: DigitsConfig(groups="ink", feedback=3, select=4, test=5, seed=seed),
    "gaussians": lambda _, seed: GaussiansConfig(feedback=3, select=4, test=5, unlabelled=6, seed=seed),
    "parquet": table,
    "cifar": cifar,
    "stl10": stl,
    "fashion_mnist": fashion,
    "image_folder": folders,
    "image_list": lambda folder, seed: dataclasses.replace(write_lists(folder), seed=seed),
}


def samples(split: Split) -> list[bytes]:
    """Each sample as bytes: its file's content, or its numbers."""
    files = getattr(split.inputs, "files", ())
    if files:
        return [str(file).encode() for file in files]
    return [sample.numpy().tobytes() for sample in split.whole()]


@pytest.mark.parametrize("name", list(WRITTEN))
def test_no_sample_lies_in_two_splits_and_all_have_their_size(name: str, tmp_path: Path) -> None:
    config = WRITTEN[name](tmp_path, 1)
    data, test = config.load(), config.load_test()
    parts = {"train": data.train, "feedback": data.feedback, "select": data.select, "test": test}
    if data.unlabelled is not None:
        parts["unlabelled"] = data.unlabelled
    # The official test images of these small files are copies of training images.
    drawn = [part for part in parts if part != "test" or name not in ("cifar", "stl10")]
    held = [each for part in drawn for each in samples(parts[part])]
    assert len(set(held)) == len(held)
    assert data.train_counts.tolist() == config.train_sizes
    for part in ("feedback", "select", "test"):
        size = getattr(config, part, None)
        if isinstance(size, int) and part in parts and name != "image_list":
            assert parts[part].counts(data.num_classes).tolist() == [size] * data.num_classes, part
    assert data.digests == {part: split.digest() for part, split in parts.items()}
    assert data.input_shape == config.input_shape
    assert data.class_names == config.class_names


@pytest.mark.parametrize("name", list(WRITTEN))
def test_a_seed_is_a_draw(name: str, tmp_path: Path) -> None:
    config: Any = WRITTEN[name](tmp_path, 1)
    digests = config.load().digests
    assert dataclasses.replace(config).load().digests == digests  # read anew
    assert dataclasses.replace(config, seed=2).load().digests["feedback"] != digests["feedback"]


def test_a_folder_that_was_moved_or_written_in_another_order_has_the_same_digests(tmp_path: Path) -> None:
    before = folders(tmp_path / "one", 1).load().digests
    for name in ("bee", "ant"):
        for file in sorted((tmp_path / "one" / name).iterdir(), reverse=True):
            (tmp_path / "two" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "two" / name / file.name).write_bytes(file.read_bytes())
    moved = ImageFolderConfig(str(tmp_path / "two"), size=8, feedback=3, select=4, test=5, seed=1)
    assert moved.load().digests == before
    assert dataclasses.replace(moved, size=9).load().digests != before


def test_a_table_in_another_layout_has_the_same_digests(tmp_path: Path) -> None:
    before = table(tmp_path, 1).load().digests
    assert table(tmp_path, 1, row_group_size=7, compression="gzip").load().digests == before
    written = pq.read_table(tmp_path / "t.parquet").select(
        ["features", "label"]
    )  # turned, and one column fewer
    pq.write_table(written, tmp_path / "t.parquet")
    assert (
        ParquetConfig(str(tmp_path / "t.parquet"), feedback=3, select=4, test=5, seed=1).load().digests
        == before
    )
    pq.write_table(written.slice(1), tmp_path / "t.parquet")
    again = ParquetConfig(str(tmp_path / "t.parquet"), feedback=3, select=4, test=5, seed=1)
    assert again.load().digests["train"] != before["train"]  # read anew, though the path is the same


def test_a_digest_sees_labels_groups_and_the_order_of_samples() -> None:
    split = Split(torch.arange(6.0).view(3, 2), torch.tensor([0, 1, 1]))
    others = [
        split.take(torch.tensor([0, 2, 1])),
        Split(split.inputs, torch.tensor([0, 1, 0])),
        Split(split.inputs, split.labels, torch.tensor([0, 0, 0])),
        Split(split.inputs, split.labels, torch.tensor([0, 0, 1])),
    ]
    assert len({split.digest(), *(other.digest() for other in others)}) == 5
    assert split.take(torch.tensor([True, True, True])).digest() == split.digest()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0] * 9 + [12]], "labels must lie in 0 to 9, got 0 to 12"),
        ([[0.5] * 10, [0] * 9], "must hold one label per image"),
        ([[-1] + [0] * 9], "labels must lie in 0 to 9, got -1 to 0"),
    ],
)
def test_wrong_labels_of_cifar_name_the_file_or_folder(
    tmp_path: Path, labels: list[Any], message: str
) -> None:
    for k in range(1, 6):
        batch = {"data": np.zeros((10, 3072), np.uint8), "labels": labels[-1]}
        (tmp_path / f"data_batch_{k}").write_bytes(pickle.dumps(batch))
    with pytest.raises(ValueError, match=message) as caught:
        CifarConfig(str(tmp_path), imbalance=1, largest_class=1, feedback=1, select=1).load()
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize("name", ["cifar", "stl10"])
def test_a_file_that_was_cut_off_is_refused(name: str, tmp_path: Path) -> None:
    config = WRITTEN[name](tmp_path, 1)
    file = next(tmp_path.rglob("train_X.bin"), tmp_path / "data_batch_3.bin")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{file.name}: must (be rows of|hold)"):
        config.load()


@given(st.integers(2, 30), st.integers(1, 2000), st.floats(1, 500))
@settings(max_examples=50, deadline=None)
def test_counts_fall_geometrically_from_the_largest(classes: int, largest: int, imbalance: float) -> None:
    counts = long_tailed_counts(classes, largest, imbalance)
    assert counts[0] == largest
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == max(1, round(largest / imbalance))
    for k, count in enumerate(counts):
        assert (
            abs(math.log(largest) - k * math.log(imbalance) / (classes - 1) - math.log(count)) < 0.7
            or count == 1
        )


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=4), st.integers(0, 99)
)
@settings(max_examples=40, deadline=None)
def test_drawn_parts_are_disjoint_and_of_the_right_classes(sizes: list[list[int]], seed: int) -> None:
    labels = torch.randint(3, (90,), generator=torch.Generator().manual_seed(seed))
    parts = split_by_class(labels, sizes, torch.Generator().manual_seed(seed))
    whole = torch.cat(parts)
    assert len(whole.unique()) == len(whole)
    for part, size in zip(parts, sizes, strict=True):
        assert labels[part].tolist() == [k for k in range(3) for _ in range(size[k])]
        assert part.dtype == torch.int64


def test_every_class_that_holds_too_few_is_named() -> None:
    labels = torch.tensor([0, 0, 2])
    with pytest.raises(
        ValueError, match="class 1 holds 0 samples, the splits ask for 1\nclass 3 holds 0 samples"
    ):
        split_by_class(labels, [[1, 0, 1, 0], [1, 1, 0, 1]], torch.Generator())
    names = [f"n{k}" for k in range(9)]
    with pytest.raises(
        ValueError, match=r"^src: class n1 holds 0 .*class n6 holds 0 samples, a ask for 1; and 2 more$"
    ):
        check_held("src", names, [1] + [0] * 8, [1] * 9, "a")
    check_held("src", names, [1] * 9, [1] * 9, "a")


def test_sizes_that_are_left_out_or_at_their_minimum_are_no_problem() -> None:
    assert size_problems({"a": (None, 3), "b": (3, 3), "c": (2.5, 3), "d": (math.nan, 1)}) == [
        "c: must be >= 3, got 2.5", "d: must be >= 1, got nan",
    ]  # fmt: skip


def test_cells_and_classes_that_are_missing_are_named_in_order() -> None:
    split = Split(torch.zeros(3, 1), torch.tensor([0, 0, 2]), torch.tensor([1, 1, 0]))
    data = SweepData("d", ("a", "b", "c"), split, split, split, {}, ("x", "y"))
    assert data.missing_classes("train") == ["b"]
    assert data.missing_cells("select") == ["a x x", "b x x", "b x y", "c x y"]
    bare = dataclasses.replace(data, train=Split(split.inputs, split.labels))
    assert bare.missing_cells("train") == []
    assert data.train_counts.tolist() == [2, 0, 1]
    assert (data.num_groups, data.num_classes, data.input_shape) == (2, 3, (1,))


def test_joined_splits_keep_groups_only_where_both_have_them() -> None:
    one = Split(torch.zeros(2, 1), torch.tensor([0, 1]), torch.tensor([1, 0]))
    assert join(one, one).groups.tolist() == [1, 0, 1, 0]  # type: ignore[union-attr]
    assert join(one, Split(one.inputs, one.labels)).groups is None
    with pytest.raises(ValueError, match=r"one label per sample, got 2 inputs and labels of shape \(2, 1\)"):
        Split(torch.zeros(2, 1), torch.zeros(2, 1))


def test_inks_are_halves_of_a_class_and_few_in_train() -> None:
    config = DigitsConfig(
        groups="ink", minority=0.25, largest_class=40, imbalance=40, feedback=5, select=4, test=6
    )
    data = config.load()
    for k, count in enumerate(config.train_sizes):
        groups = data.train.groups[data.train.labels == k]  # type: ignore[index]
        few = min(max(1, round(0.25 * count)), count // 2)
        assert int((groups == k % 2).sum()) == few  # faint in the even classes, bold in the odd ones
        held = data.feedback.groups[data.feedback.labels == k]  # type: ignore[index]
        assert held.tolist() == [0, 0, 1, 1, 1]
        faint, bold = (
            data.train.whole()[(data.train.labels == k) & (data.train.groups == a)]
            .sum(dim=(1, 2, 3))
            .tolist()
            for a in (0, 1)
        )
        assert max(faint, default=0.0) <= min(bold, default=99.0)
    with pytest.raises(ValueError, match="groups: cannot stand beside noisy_share"):
        DigitsConfig(groups="ink", noisy_share=0.1)
    with pytest.raises(ValueError, match=r"class 0 x bold holds 89 samples, the splits ask for \d+"):
        DigitsConfig(groups="ink", largest_class=80, imbalance=1, minority=0.05)
    with pytest.raises(
        ValueError, match=r"groups: must be ink or left out, got 'pen'\nminority: must lie in \(0, 0.5\]"
    ):
        DigitsConfig(groups="pen", minority=0.6)


def test_the_written_sizes_of_digits_are_those_of_the_data() -> None:
    from sklearn.datasets import load_digits

    assert np.bincount(load_digits().target).tolist() == list(SAMPLES_OF_CLASS)


def test_sizes_of_one_split_of_gaussians_move_no_other() -> None:
    base = GaussiansConfig(feedback=5, select=5, test=5, unlabelled=5)
    for part in ("feedback", "select", "test", "unlabelled"):
        digests = dataclasses.replace(base, **{part: 6}).load().digests
        assert {name for name, digest in digests.items() if digest != base.load().digests[name]} == {part}


@pytest.mark.parametrize("key", ["imbalance", "separation", "classes", "unlabelled"])
def test_gaussians_refuse_what_is_no_number_in_range(key: str) -> None:
    for value in (math.nan, -1.0):
        with pytest.raises(ValueError, match=f"{key}: must be >"):
            GaussiansConfig(**{key: value})


def test_what_the_table_of_data_sets_knows() -> None:
    assert {name: unlabelled_key(name) for name in (*DATA, "absent")} == {
        "digits": "unlabelled", "gaussians": "unlabelled", "parquet": None, "cifar": "unlabelled_largest",
        "stl10": "unlabelled", "fashion_mnist": "unlabelled", "fashion_small": None,
        "image_folder": None, "image_list": None, "absent": None,
    }  # fmt: skip
    assert has_groups(DigitsConfig(noisy_share=0.1))
    assert not has_groups(GaussiansConfig())
    assert (
        official_files(StlConfig("x", unlabelled=3)).archives["stl10_binary.tar.gz"][-1] == "unlabeled_X.bin"
    )  # type: ignore[union-attr]
    assert build_data_config("gaussians", dim=3) == GaussiansConfig(dim=3)
    with pytest.raises(TypeError, match="dims"):
        build_data_config("gaussians", dims=3)
    for name, kind in DATA.items():
        assert kind.name == name
