"""Feature vectors from Parquet: what is read, what is refused, and a sweep on them from file to pin."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import selmix as package
from selmix.data import build_data_config
from selmix.data.digits import DigitsConfig
from selmix.data.gaussians import GaussiansConfig
from selmix.data.images import Images
from selmix.data.parquet import ParquetConfig
from selmix.data.splits import join
from selmix.models import ModelConfig, build_model
from selmix.pretrain import pretrain
from tests.command import here, selmix

SWEEP = """\
version: 1
name: features
data: {name: parquet, path: PATH, label: kind, feedback: 20, select: 20, test: 40}
model: {name: standardised_head}
objectives: [min_recall]
parameters: {lr: {min: 0.01, max: 0.1}, steps: {value: 40}}
search: {num_trials: 2}
selection: {replicates: 2, finalists: 1}
"""


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def world_table(path: Path) -> tuple[Path, torch.Tensor, list[str]]:
    """Six Gaussians as a table whose features have very unequal scales."""
    source = GaussiansConfig(seed=0, feedback=20, select=20, test=40, largest_class=120)
    data = source.load()
    whole = join(join(data.train, data.feedback), join(data.select, source.load_test()))
    features = whole.inputs * torch.tensor([1000.0, 1, 1, 1, 1, 1, 1, 0.001]) + 50.0
    labels = [f"kind{k}" for k in whole.labels.tolist()]
    return write(path, kind=labels, features=features.tolist()), features, labels


def test_classes_are_dealt_out_and_the_rest_trains(tmp_path: Path) -> None:
    path, features, labels = world_table(tmp_path / "f.parquet")
    config = ParquetConfig(str(path), label="kind", feedback=20, select=20, test=40, seed=1)
    data, test = config.load(), config.load_test()
    assert config.class_names == tuple(f"kind{k}" for k in range(6))
    assert config.input_shape == (8,)
    for split, size in ((data.feedback, 20), (data.select, 20), (test, 40)):
        assert split.counts(6).tolist() == [size] * 6
    counts = torch.tensor([labels.count(f"kind{k}") for k in range(6)])
    assert data.train_counts.tolist() == (counts - 80).tolist() == config.train_sizes
    together = torch.cat([data.train.inputs, data.feedback.inputs, data.select.inputs, test.inputs])
    assert torch.equal(together.sort(dim=0).values, features.sort(dim=0).values)  # every row once
    assert data.digests == ParquetConfig(str(path), label="kind", select=20, test=40, seed=1).load().digests
    assert data.digests != ParquetConfig(str(path), label="kind", select=20, test=40, seed=2).load().digests


def test_a_column_says_the_split(tmp_path: Path) -> None:
    names = ["train", "feedback", "select", "test"] * 4
    path = write(
        tmp_path / "f.parquet",
        label=[0, 0, 0, 0, 7, 7, 7, 7] * 2,
        features=pa.array([[float(k), 1.0] for k in range(16)], pa.list_(pa.float64(), 2)),
        part=names,
    )
    config = ParquetConfig(str(path), split="part")
    data = config.load()
    assert config.class_names == ("0", "7")
    assert data.train.inputs[:, 0].tolist() == [0.0, 4.0, 8.0, 12.0]
    assert data.train.labels.tolist() == [0, 1, 0, 1]
    assert config.load_test().inputs[:, 0].tolist() == [3.0, 7.0, 11.0, 15.0]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"kind": [0]}, {}, "must have a column label, got kind"),
        ({"label": [0, 1], "features": [1.0, 2.0]}, {}, "features must hold lists of numbers, got double"),
        ({"label": [0, 1], "features": [["a"], ["b"]]}, {}, "lists of numbers, got lists of string"),
        ({"label": [0, 1], "features": [[1.0], [1.0, 2.0]]}, {}, "as many numbers in every row"),
        ({"label": [0, 1], "features": [[1.0], [float("nan")]]}, {}, "features must be finite"),
        ({"label": [0, 0], "features": [[1.0], [2.0]]}, {}, "at least two classes"),
        ({"label": [0, None], "features": [[1.0], [2.0]]}, {}, "missing in label: row 1"),
        ({"label": [0, 1], "features": [[1.0], [2.0]]}, {}, "class 0 has 1 rows"),
        (
            {"label": [0, 1], "features": [[1.0], [2.0]], "part": ["train", "tst"]},
            {"split": "part"},
            "got 'tst'",
        ),
    ],
)
def test_tables_that_do_not_do(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "f.parquet", **columns)
    with pytest.raises(ValueError, match=message):
        ParquetConfig(str(path), **options).load()


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="select: must be >= 1 sample per class, got 0"):
        ParquetConfig("x", select=0)


def test_the_head_standardises_what_it_is_given(tmp_path: Path) -> None:
    path, _, _ = world_table(tmp_path / "f.parquet")
    data = ParquetConfig(str(path), label="kind", select=20, test=40).load()
    state = pretrain("erm", ModelConfig("standardised_head"), data, 0)
    inputs = data.train.inputs.double()
    assert torch.allclose(state["mean"].double(), inputs.mean(dim=0), rtol=1e-5)
    assert torch.allclose(state["scale"].double(), inputs.std(dim=0, unbiased=False), rtol=1e-4)
    model = build_model("standardised_head", (8,), 6, torch.Generator())
    model.load_state_dict(state)
    right = (model(data.train.inputs).argmax(dim=1) == data.train.labels).float().mean()
    assert float(right) > 0.6  # with these scales a plain head learns nothing


@pytest.mark.long
@pytest.mark.ray
def test_a_sweep_on_features(tmp_path: Path) -> None:
    path, _, _ = world_table(tmp_path / "f.parquet")
    file = tmp_path / "features.yaml"
    file.write_text(SWEEP.replace("PATH", str(path)))
    runs, pins = tmp_path / "runs", tmp_path / "pins"
    done = selmix("launch", file, "--runs", runs)
    assert done.code == 0, done.err
    assert selmix("pin", "features", "--name", "f", "--runs", runs, "--pins", pins).code == 0
    again = selmix("reproduce", "f", "--runs", runs, "--pins", pins)
    assert again.code == 0, again.err
    model = package.load_pin(pins / "f.yaml")
    data = ParquetConfig(str(path), label="kind", select=20, test=40).load()
    right = (model(data.select.inputs).argmax(dim=1) == data.select.labels).float().mean()
    assert float(right) > 0.5
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    moved = selmix("reproduce", "f", "--runs", runs, "--pins", pins)
    assert moved.code == 7
    assert "digests/train" in moved.err


def test_a_file_that_is_missing_stops_a_validation_and_a_launch(tmp_path: Path) -> None:
    file = tmp_path / "features.yaml"
    file.write_text(SWEEP.replace("PATH", str(tmp_path / "none.parquet")))
    missing = here("validate", file)
    assert missing.code == 4
    assert f"data.path: {tmp_path}/none.parquet must be there" in missing.err
    stopped = here("launch", file, "--runs", tmp_path / "runs")
    assert stopped.code == 4
    assert "none.parquet: must be a Parquet file, there is none" in stopped.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("path: PATH, ", "", "data: path: must be given"),
        ("path: PATH", "path: 3", "data.path: must be a text, got 3"),
        ("label: kind", "lable: kind", "did you mean label?"),
        ("select: 20", "select: 0", "data.select: must be >= 1 sample"),
        ("standardised_head", "small_cnn", "small_cnn takes images"),
    ],
)
def test_a_sweep_file_that_is_wrong(tmp_path: Path, old: str, new: str, says: str) -> None:
    path, _, _ = world_table(tmp_path / "f.parquet")
    file = tmp_path / "features.yaml"
    file.write_text(SWEEP.replace(old, new).replace("PATH", str(path)))
    said = here("validate", file)
    assert said.code == 3
    assert says in said.err


def test_digits_as_features_are_the_same_samples(tmp_path: Path) -> None:
    data = DigitsConfig(seed=0).load()
    part = ["train"] * len(data.train) + ["select"] * len(data.select)
    whole = join(data.train, data.select)
    path = write(
        tmp_path / "d.parquet",
        label=whole.labels.tolist(),
        features=whole.inputs.flatten(1).tolist(),
        split=part,
    )
    read = ParquetConfig(str(path), split="split").load()
    assert torch.equal(read.train.inputs, data.train.inputs.flatten(1))
    assert torch.equal(read.select.labels, data.select.labels)
    assert read.missing_classes("feedback") == [str(k) for k in range(10)]


def gold(path: Path) -> Path:
    g = torch.Generator().manual_seed(5)
    x = torch.randn(240, 4, generator=g, dtype=torch.float64)
    parts = [("train", "feedback", "select", "test")[k // 3 % 4] for k in range(240)]
    kinds = [("ant", "bee", "cow")[k % 3] for k in range(240)]
    return write(path, kind=kinds, features=x.tolist(), g=[k % 2 for k in range(240)], part=parts)


@pytest.mark.parametrize(
    ("keys", "digests"),
    [
        ({"select": 10, "test": 10, "seed": 3}, "420bf73e24dd6a09 deb6bfca43a07e1a ac056b8f05d9eb98 f4507c0b9ddf6ffc"),
        ({"split": "part", "group": "g"}, "30129c738a0e6ac1 86b034a812d38f8d b49591994f1addf7 089d9b2fde5c3589"),
    ],
)  # fmt: skip
def test_splits_are_those_of_earlier_versions(keys: dict[str, Any], digests: str, tmp_path: Path) -> None:
    data = ParquetConfig(str(gold(tmp_path / "f.parquet")), label="kind", **keys).load()
    assert [each[7:23] for each in data.digests.values()] == digests.split()


def test_wide_columns_are_the_features_of_one_column(tmp_path: Path) -> None:
    listed = ParquetConfig(str(gold(tmp_path / "f.parquet")), label="kind", split="part")
    columns = pq.read_table(tmp_path / "f.parquet").to_pydict()
    wide = {f"f{k}": [row[k] for row in columns["features"]] for k in range(4)}
    path = write(
        tmp_path / "w.parquet", **wide, kind=columns["kind"], filler=["x"] * 240, part=columns["part"]
    )
    config = ParquetConfig(str(path), label="kind", features="f?", split="part")
    assert config.load().digests == listed.load().digests
    assert (config.input_shape, config.notes) == ((4,), ["features: 4 columns, f0 to f3"])
    few = ParquetConfig(str(path), label="kind", features=("f3", "f0"), split="part").load()
    assert torch.equal(few.train.inputs, listed.load().train.inputs[:, [3, 0]])
    with pytest.raises(
        ValueError, match=r"must have a column features, .* named by features, a list or a pattern"
    ):
        ParquetConfig(str(path), label="kind").load()
    with pytest.raises(ValueError, match="filler must hold numbers"):
        ParquetConfig(str(path), label="kind", features="f*", split="part").load()


def picture(k: int) -> bytes:
    pixels = torch.randint(0, 256, (10, 12, 3), generator=torch.Generator().manual_seed(k)).byte().numpy()
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


@pytest.mark.parametrize(
    "column",
    [
        # As Hugging Face writes them: of a row with bytes the path is only a name.
        lambda: [{"bytes": picture(k), "path": f"{k}.png"} for k in range(24)],
        lambda: pa.array([picture(k) for k in range(24)], pa.large_binary()),
        lambda: pa.array([picture(k) for k in range(24)], pa.binary()),
        lambda: [{"bytes": None if k % 2 else picture(k), "path": f"{k}.png"} for k in range(24)],
        lambda: [{"bytes": None, "path": f"{k}.png"} for k in range(24)],
        lambda: [{"path": f"{k}.png"} for k in range(24)],
        lambda: [f"{k}.png" for k in range(24)],
    ],
)
def test_images_in_a_table_are_those_of_a_folder(column: Any, tmp_path: Path) -> None:
    for k in range(24):
        (tmp_path / f"{k}.png").write_bytes(picture(k))
    path = write(tmp_path / "t.parquet", image=column(), label=[k % 3 for k in range(24)])
    config = ParquetConfig(str(path), image="image", size=8, feedback=2, select=2, test=2)
    data, test = config.load(), config.load_test()
    assert (config.input_shape, data.class_names) == ((3, 8, 8), ("0", "1", "2"))
    rows = torch.cat([config._division.rows[part] for part in ("train", "feedback", "select", "test")])
    read = torch.cat([split.whole() for split in (data.train, data.feedback, data.select, test)])
    folder = Images(files=tuple(str(tmp_path / f"{k}.png") for k in rows.tolist()), size=8)
    assert torch.equal(read, folder.batch(torch.arange(24)))
    assert isinstance(data.train.inputs, Images)
    assert data.train.inputs.digest() == folder[torch.arange(6)].digest()
    # What a sweep holds has no byte of the others.
    if data.train.inputs.encoded is not None:
        assert sum(each.numel() for each in data.train.inputs.encoded.buffers) == sum(
            len(picture(k)) for k in rows[:6].tolist()
        )


def test_the_schema_tells_what_a_table_holds(tmp_path: Path) -> None:
    label, photo = [0, 1], [{"bytes": picture(k), "path": None} for k in range(2)]
    by_kind = ParquetConfig(str(write(tmp_path / "a.parquet", photo=photo, label=label)))
    assert (by_kind._image, by_kind.input_shape) == ("photo", (3, 224, 224))
    both = write(tmp_path / "b.parquet", photo=photo, features=[[1.0], [2.0]], label=label)
    assert ParquetConfig(str(both)).input_shape == (1,)
    assert ParquetConfig(str(both), image="photo", size=8).input_shape == (3, 8, 8)
    named = write(tmp_path / "c.parquet", photo=photo, image=photo, label=label)
    assert ParquetConfig(str(named))._image == "image"
    two = write(tmp_path / "d.parquet", photo=photo, mask=photo, label=label)
    with pytest.raises(ValueError, match=r"or one of encoded images, .*; name one as image: photo, mask"):
        _ = ParquetConfig(str(two)).input_shape
    with pytest.raises(ValueError, match="size must be left out of a table of features"):
        _ = ParquetConfig(str(both), size=8).input_shape


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([1, 2], "image must hold encoded images: bytes, a struct of bytes and path, or paths, got int64"),
        ([{"bytes": b"x", "path": None}, None], "missing in image: row 1 has neither bytes nor a path"),
        (
            [{"bytes": b"x", "path": None}, {"bytes": None, "path": "gone.png"}],
            "image of row 1 must be a file, .*gone",
        ),
        ([b"x", None], "missing in image: row 1 has neither bytes nor a path"),
    ],
)
def test_images_that_do_not_do(image: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", image=image, label=[0, 1])
    with pytest.raises(ValueError, match=message):
        ParquetConfig(str(path), image="image", size=8).load()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"image": "a", "features": "b"}, "image: must be left out where features are given"),
        ({"size": 8, "features": "b"}, "size: must be left out where features are given"),
        ({"size": 4}, "size: must be >= 8"),
        ({"select": 2.5}, "select: must be a number of samples per class, or a fraction below 1, got 2.5"),
        ({"rare_classes": "keep"}, "rare_classes: must be one of refuse, drop, pool, got 'keep'"),
    ],
)
def test_keys_that_cannot_be(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ParquetConfig("x", **keys)


def test_a_validation_reads_no_features(tmp_path: Path) -> None:
    # Rows of unequal length are found where the features are read: by a launch, not by a validation.
    path = write(tmp_path / "t.parquet", kind=["a", "b"] * 50, features=[[1.0, 2.0]] * 99 + [[1.0]])
    config = ParquetConfig(str(path), label="kind", feedback=2, select=2, test=2)
    assert (config.input_shape, config.class_names, config.train_sizes) == ((2,), ("a", "b"), [44, 44])
    with pytest.raises(ValueError, match="1 in row 99"):
        config.load()


def test_a_column_of_splits_that_is_not_used_is_said(tmp_path: Path) -> None:
    rows = {"label": [0, 1] * 20, "features": [[float(k)] for k in range(40)]}
    keys = {"feedback": 2, "select": 2, "test": 2}
    named = write(tmp_path / "a.parquet", **rows, split=["train", "Dev"] * 20)
    (warning,) = ParquetConfig(str(named), **keys).data_warnings
    assert warning == "the column split names Dev, train and is not used; give data.split: split to use it"
    other = write(tmp_path / "b.parquet", **rows, split=["left", "right"] * 20)
    assert ParquetConfig(str(other), **keys).data_warnings == []
    assert ParquetConfig(str(named), split="split").data_warnings == []


def test_classes_are_in_the_order_that_is_given(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    labels = ["ant", "bee", "cow"] * 8
    pq.write_table(pa.table({"label": labels, "features": [[float(k)] for k in range(24)]}), path)
    keys: dict[str, Any] = {"feedback": 1, "select": 1, "test": 1}
    data = build_data_config("parquet", path=str(path), class_names=("cow", "ant", "bee"), **keys).load()
    assert data.class_names == ("cow", "ant", "bee")
    rows = data.train.whole()[:, 0].long().tolist()
    assert [data.class_names[k] for k in data.train.labels.tolist()] == [labels[row] for row in rows]
    for order, problem in ((("cow", "ant"), "must name every class of the rows, it lacks 'bee'"),
                           (("cow", "ant", "bee", "dog"), "must be those of the rows, no row has 'dog'"),
                           (("cow", "cow"), "class_names: must name each class once, got 'cow' again")):  # fmt: skip
        with pytest.raises(ValueError, match=problem):
            build_data_config("parquet", path=str(path), class_names=order, **keys).load()
