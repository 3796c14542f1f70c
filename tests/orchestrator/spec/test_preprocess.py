"""Keys of the preprocessing in sweep files: the model's where the file gives none, and what stored sweeps had."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from orchestrator.build.selection import data_config, preprocess_keys
from orchestrator.run.preflight import changed_keys
from orchestrator.spec.schema import SweepSpec, spec_from_resolved
from selmix.data.content import facts_of, preprocess_digest
from selmix.data.files import ImageFolderConfig
from selmix.data.images import Images
from selmix.data.preprocess import Preprocess
from selmix.weights import bytes_digest, save_weights
from tests.orchestrator.spec.test_schema import problems_of, spec_of

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def text(path: Path | str = "images", more: str = "", model: str = "torchvision/mobilenet_v2") -> str:
    return (
        f"version: 1\nname: x\nobjectives: [min_recall]\nmodel: {{name: '{model}'}}\n"
        f"data: {{name: image_folder, path: '{path}', feedback: 1, select: 1, test: 1{more}}}\n"
    )


def images(top: Path) -> Path:
    for k, name in enumerate(("ant", "bee")):
        (top / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (30, 20), (100 * k, 50 * i, 7)).save(top / name / f"{i}.png")
        # Earlier versions did not read it.
        Image.new("RGB", (30, 20)).save(top / name / "more.webp")
    return top


def test_a_new_sweep_has_the_preprocessing_of_its_model() -> None:
    resolved = spec_of(text()).resolved()["data"]
    assert resolved["resize"] == 232
    assert (resolved["size"], resolved["crop"], resolved["input_range"]) == (224, "center", 1)
    assert (resolved["mean"], resolved["listing"]) == ([0.485, 0.456, 0.406], 2)
    plain = spec_of(text(model="small_cnn")).resolved()["data"]
    assert (plain["size"], plain["resize"]) == (224, 256)
    assert (
        "resize" not in spec_of("version: 1\nname: x\ndata: {name: digits}\nobjectives: [min_recall]\n").data
    )


def test_what_the_file_gives_stands() -> None:
    spec = spec_of(text(more=", size: 64, crop: squash, mean: [0, 0.5, 1]"))
    config: Any = data_config(spec)
    assert (config.size, config.resize, config.crop) == (64, 66, "squash")  # 64 * 232 / 224
    assert config.preprocess.mean == (0.0, 0.5, 1.0)
    assert preprocess_keys(spec) == config.preprocess.as_keys()
    raw: Any = data_config(spec_of(text(more=", input_range: 255", model="small_cnn")))
    assert (raw.mean, raw.std) == ((0.0,) * 3, (1.0,) * 3)
    named: Any = data_config(spec_of(text(more=", class_names: [bee, ant]")))
    assert named.class_order == ("bee", "ant")


@pytest.mark.parametrize(("more", "problem"), [
    (", resize: 100", "data.resize: must be >= size, 224"),
    (", size: 64, resize: 32", "data.resize: must be >= size, 64, as the centre is cut out, got 32"),
    (", size: big", "data.size: must be a whole number, got 'big'"),
    (", mean: [124, 116, 104]", "data.mean: must lie between 0 and input_range, 1, got [124.0, 116.0, 104.0]; give "
                                "input_range: 255"),
    (", mean: 0.5", "data.mean: must be a list, got 0.5"),
    (", interpolation: cubic", "data.interpolation: must be one of nearest, box, bilinear, hamming, bicubic, lanczos"),
    (", input_range: true", "data.input_range: must be a whole number, got true"),
    (", class_names: [ant, ant]", "data.class_names: must name each class once, got 'ant' again"),
    (", class_names: [0, 1]", "data.class_names: must be a text, got 0"),
    (", class_name: [a, b]", "data.class_name: unknown key; did you mean class_names?"),
])  # fmt: skip
def test_keys_that_are_wrong_are_refused_at_their_place(more: str, problem: str) -> None:
    assert any(problem in line for line in problems_of(text(more=more)))


def test_an_unknown_model_of_a_library_is_a_problem_of_its_name() -> None:
    (problem,) = problems_of(text(model="torchvision/resnet5"))
    assert "model.name: torchvision has no classifier 'resnet5'; close to it: resnet50" in problem


def stored_before(path: Path) -> dict[str, Any]:
    """The document that an earlier version stored for the file: no key that it did not give."""
    document = spec_of(text(path)).resolved()
    given = ("name", "path", "feedback", "select", "test")
    return document | {"data": {key: document["data"][key] for key in given}}


def test_a_stored_sweep_has_what_its_version_did(tmp_path: Path) -> None:
    """The old rule of size, mean, std and files, and with them the old digests."""
    spec = spec_from_resolved(stored_before(images(tmp_path)))
    config: Any = data_config(spec)
    assert config.preprocess == Preprocess(size=224, **IMAGENET)  # type: ignore[arg-type]
    assert config.preprocess.is_earlier
    data = config.load()
    assert [len(split) for split in (data.train, data.feedback, data.select)] == [2, 2, 2]
    expected = bytes_digest(f"{(3, 224, 224)}{IMAGENET['mean']}{IMAGENET['std']}".encode())
    assert preprocess_digest(data.train.inputs) == expected
    # By the rule of then: 256 / 20 of 30 is 384, of which the middle is cut out.
    assert config.preprocess.placed(30, 20) == ((384, 256), (80, 16))
    now = data_config(spec_of(text(tmp_path))).load()
    assert len(now.train) == 4
    assert preprocess_digest(now.train.inputs) != expected


def test_a_sweep_of_before_resumes_with_what_it_was_begun_with(tmp_path: Path) -> None:
    stored = stored_before(images(tmp_path))
    resumed = spec_of(text(tmp_path)).resumed(stored)
    assert changed_keys(stored, resumed.resolved()) == []
    assert data_config(resumed) == data_config(spec_from_resolved(stored))
    # What the file gives is a change.
    changed = changed_keys(stored, spec_of(text(tmp_path, ", resize: 256")).resumed(stored).resolved())
    assert changed == ["data.resize (nothing -> 256)"]
    # A default that is another one in this version than in that of the launch is none.
    other = spec_of(text(tmp_path, model="small_cnn")).resolved()
    later = spec_of(text(tmp_path)).resumed(other)
    assert later.data["resize"] == 256
    assert isinstance(later, SweepSpec)


def test_the_digest_is_of_every_step() -> None:
    base = ImageFolderConfig("x", size=8, resize=9)
    changes: list[dict[str, Any]] = [
        {}, {"resize": 10}, {"resize": None}, {"crop": "squash"}, {"interpolation": "bicubic"}, {"white": 4095.0},
        {"mean": (0.5, 0.5, 0.5)}, {"std": (0.5, 0.5, 0.5)}, {"size": 9},
        {"input_range": 255, "mean": (0.0, 0.0, 0.0)},
    ]  # fmt: skip

    digests = [
        preprocess_digest(Images(files=("a",), **vars(replace(base, **change).preprocess)))
        for change in changes
    ]
    assert len(set(digests)) == len(changes)


def test_the_preprocessing_that_a_checkpoint_carries_comes_before_that_of_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = images(tmp_path / "images")
    config = ImageFolderConfig(str(folder), size=32, resize=40, crop="squash", feedback=1, select=1, test=1)
    save_weights(tmp_path / "base.safetensors", {"w": torch.zeros(1)}, facts_of(config.load()))
    pretrain = f"pretrain: {{checkpoint: '{tmp_path}/base.safetensors'}}\n"
    spec = spec_of(text(folder) + pretrain)
    assert (spec.data["size"], spec.data["resize"], spec.data["crop"]) == (32, 40, "squash")
    monkeypatch.setenv("WEIGHTS", str(tmp_path))
    assert spec_of(text(folder) + "pretrain: {checkpoint: $WEIGHTS/base.safetensors}\n").data["resize"] == 40
    assert spec_of(text(folder, ", size: 64") + pretrain).data["resize"] == 80
    for facts in (None, {"preprocess": {"size": "big"}}, {"preprocess": {"crop": "none"}}, {"preprocess": 3}):
        save_weights(tmp_path / "base.safetensors", {"w": torch.zeros(1)}, facts)
        assert spec_of(text(folder) + pretrain).data["resize"] == 232
