"""Data of a sweep from arrays and frames in one call, equal to the same in a Parquet file, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selmix.data import ParquetConfig, array_data, frame_data, from_arrays, from_frame, write_table
from selmix.data.arrays import array_table, table_digest
from selmix.data.images import Images

SIZES = {"feedback": 4, "select": 0.1, "test": 5, "seed": 2}
X = np.random.default_rng(0).normal(size=(90, 3))
Y = np.array(["a", "b", "c"])[np.arange(90) % 3]


@pytest.mark.parametrize(
    ("inputs", "labels"),
    [
        (X, Y),
        (torch.tensor(X), list(Y)),
        (X.tolist(), pa.array(Y).dictionary_encode()),
        (X.astype(np.float32), pa.chunked_array([Y[:40], Y[40:]])),
        (np.asfortranarray(X), Y.astype(object)),
    ],
)
def test_arrays_of_every_kind_are_the_same_data(inputs: Any, labels: Any, tmp_path: Path) -> None:
    data = from_arrays(inputs, labels, **SIZES)
    write_table(tmp_path / "t.parquet", inputs, labels)
    config = ParquetConfig(str(tmp_path / "t.parquet"), **SIZES)
    assert data.digests == config.load().digests
    assert (data.class_names, data.input_shape) == (("a", "b", "c"), (3,))
    test = array_data(inputs, labels, **SIZES).load_test()
    assert test.digest() == config.load_test().digest() == data.digests["test"]


def test_attributes_travel(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "groups": np.arange(90) % 2, "units": np.arange(90) // 2,
        "split": np.array(["Train", "feedback", "dev", "test"])[np.arange(90) // 3 % 4],
    }  # fmt: skip
    config = array_data(X, Y, **more)
    assert config.notes == ["split: 'Train' is train, 'dev' is select"]
    assert len(config.data_warnings) == 1
    write_table(tmp_path / "t.parquet", X, Y, **more)
    stored = ParquetConfig(str(tmp_path / "t.parquet"), group="group", unit="unit", split="split")
    assert stored.load().digests == config.load().digests
    assert stored.data_warnings == config.data_warnings
    assert config.load().group_names == ("0", "1")


@given(st.permutations(["a", "b", "c"]))
@settings(max_examples=6, deadline=None)
def test_names_of_classes_give_their_order(names: list[str]) -> None:
    by_text = from_arrays(X, Y, class_names=names, **SIZES)
    by_number = from_arrays(X, [names.index(label) for label in Y], class_names=names, **SIZES)
    assert by_text.class_names == by_number.class_names == tuple(names)
    assert by_text.digests == by_number.digests


@pytest.mark.parametrize(
    "shape", [(30, 9, 12), (30, 9, 12, 1), (30, 1, 9, 12), (30, 9, 12, 3), (30, 3, 9, 12)]
)
def test_pixels_are_normalised_images(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    labels = np.arange(30) % 2
    data = from_arrays(pixels, labels, class_names=["x", "y"], feedback=2, select=2, test=2)
    channels = 3 if 3 in shape else 1
    assert data.input_shape == (channels, 9, 12)
    assert isinstance(data.train.inputs, Images)
    assert float(data.train.whole().mean()) == pytest.approx(0.0, abs=0.5)
    write_table(tmp_path / "t.parquet", pixels, labels, class_names=["x", "y"])
    stored = ParquetConfig(str(tmp_path / "t.parquet"), feedback=2, select=2, test=2, size=8)
    assert stored.load().class_names == ("x", "y")
    assert torch.equal(stored.load().train.labels, data.train.labels)


def test_floats_of_any_shape_are_taken_as_they_are() -> None:
    blocks = np.random.default_rng(2).normal(size=(30, 2, 4, 4))
    config = array_data(blocks, np.arange(30) % 2, feedback=2, select=2, test=2)
    rows = config._division.rows["train"].numpy()
    assert config.input_shape == (2, 4, 4)
    assert torch.equal(config.load().train.inputs, torch.tensor(blocks[rows], dtype=torch.float32))
    gray = from_arrays(
        np.zeros((30, 4, 4, 1), np.uint8),
        np.arange(30) % 2,
        mean=[0.25],
        std=[0.5],
        feedback=2,
        select=2,
        test=2,
    )
    assert torch.equal(gray.train.whole().unique(), torch.tensor([-0.5]))


@pytest.mark.parametrize(
    ("inputs", "labels", "keys", "message"),
    [
        (X, Y[:5], {}, "inputs: must be as many as the labels, 5, got 90"),
        (X, Y, {"groups": [1, 2]}, "group: must have a value for each of the 90 labels, got 2"),
        (X, [[1]] * 90, {}, "label must hold whole numbers or texts, got list"),
        (X, [None, *Y[1:]], {}, "arrays: values must be given in every row, missing in label: row 0"),
        (X, [1, *Y[1:]], {}, "label: must hold whole numbers or texts, all of one type"),
        (X, Y[:, None], {}, r"label: must have one dimension, got shape \(90, 1\)"),
        ([["a"]] * 90, Y, {}, "inputs: must be numbers, as many for every row"),
        ([[1.0]] * 89 + [[1.0, 2.0]], Y, {}, "inputs: must be numbers, as many for every row"),
        (X.astype(complex), Y, {}, "inputs: must be real numbers, got torch.complex128"),
        (np.where(np.arange(90)[:, None] == 4, np.nan, X), Y, {}, "inputs: must be finite .* they are not in row 4$"),
        (X[:, 0], Y, {}, r"inputs: must have a shape \(n, \.\.\.\) with rows, got \(90,\)"),
        (np.zeros((90, 5, 5, 5), np.uint8), Y, {}, "images must have 1 or 3 channels"),
        (np.zeros((90, 3, 5, 3), np.uint8), Y, {}, "in their second or last dimension, got"),
        (np.zeros((90, 5, 5, 3), np.uint8), Y, {"mean": [0.5]}, "mean: must have 3 numbers, one a channel, got 1"),
        (X, Y, {"mean": [0.5]}, "mean: normalises uint8 images"),
        (X, Y, {"class_names": ["a", "b"]}, "class_names: must name every label, 'c' is missing"),
        (X, Y, {"class_names": ["a", "b", "c", "a"]}, "class_names: must name each class once"),
        (X, np.arange(90) % 3, {"class_names": ["a", "b"]}, "must be a place in the file's 2 class names"),
        (X, Y, {"split": ["train", "oops"] * 45}, "split must be one of train, .* got 'oops'"),
        (X, Y, {"select": 40}, "class a has 30 rows, feedback, select and test take"),
        (X, Y, {"select": 1.5}, "select: must be a number of samples per class, or a fraction below 1"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_do(inputs: Any, labels: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_arrays(inputs, labels, **keys)


def test_a_key_that_is_none_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="bogus"):
        from_arrays(X, Y, bogus=1)
    with pytest.raises(TypeError, match="frame: must be a data frame or an Arrow table, got int"):
        from_frame(3)


def test_frames_are_tables() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["f0", "f1", "f2"]).assign(kind=pandas.Categorical(Y), index=7)
    frame.index = frame.index[::-1]  # which is no column
    expected = from_arrays(X, Y, **SIZES).digests
    assert from_frame(frame, label="kind", features="f?", **SIZES).digests == expected
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    config = frame_data(arrow, label="kind", features=("f0", "f1", "f2"), **SIZES)
    assert config.load().digests == expected
    assert config.notes == ["features: 3 columns, f0 to f2"]
    with pytest.raises(
        ValueError,
        match="frame: values must be given in every row, missing in f1: row 1",
    ):
        from_frame(frame.assign(f1=[0.0, np.nan] * 45), label="kind", features="f?")
    with pytest.raises(ValueError, match="frame: must have a column label, got f0, f1"):
        from_frame(frame, features="f?")
    with pytest.raises(ValueError, match="frame: a column must hold values of one type"):
        from_frame(frame.assign(kind=[1, "a"] * 45), label="kind", features="f?")


def test_a_table_of_other_inputs_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"or uint8 images, got shape \(2, 3, 4, 4\)"):
        write_table(tmp_path / "t.parquet", np.zeros((2, 3, 4, 4)), [0, 1])
    assert not list(tmp_path.iterdir())


def test_the_digest_of_a_table_is_that_of_its_content() -> None:
    table = array_table([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], ["a", "b", "a"], split=["train"] * 3)
    in_chunks = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert table_digest(in_chunks) == table_digest(table)
    assert len(table_digest(table)) == 16
    # The names of classes are content; what pandas says of itself is not.
    assert table_digest(table.replace_schema_metadata({"pandas": "3.0"})) == table_digest(table)
    assert table_digest(table.replace_schema_metadata({"huggingface": "{}"})) != table_digest(table)
    others = [
        array_table([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]], ["a", "b", "a"], split=["train"] * 3),
        array_table([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], ["a", "b", "b"], split=["train"] * 3),
        table.slice(0, 2),
    ]
    assert table_digest(table) not in [table_digest(other) for other in others]
