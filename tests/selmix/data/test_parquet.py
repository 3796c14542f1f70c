"""Feature vectors from Parquet: what is read, what is refused, and a sweep on them from file to pin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import selmix as package
from selmix.data.digits import DigitsConfig
from selmix.data.gaussians import GaussiansConfig
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
        ({"label": [0, None], "features": [[1.0], [2.0]]}, {}, "missing in label"),
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


def test_a_file_that_is_missing_is_noted_by_validate_and_stops_a_launch(tmp_path: Path) -> None:
    file = tmp_path / "features.yaml"
    file.write_text(SWEEP.replace("PATH", str(tmp_path / "none.parquet")))
    noted = here("validate", file)
    assert noted.code == 0
    assert "a launch will stop here" in noted.err
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
