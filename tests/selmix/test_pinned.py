"""A pinned model as its user has it: images of any kind, tables, and tensors as before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from selmix import load_pin
from selmix.data.files import ImageFolderConfig
from selmix.data.images import Images
from selmix.data.preprocess import Preprocess
from selmix.models import ModelConfig
from selmix.weights import save_weights, state_digest

STEPS = Preprocess(size=16, resize=18, crop="squash", interpolation="bicubic", mean=(0.5, 0.4, 0.3))


def pinned(path: Path, shape: tuple[int, ...], name: str = "small_cnn", **protocol: Any) -> nn.Module:
    """A pin with the keys that loading reads."""
    state = ModelConfig(name).build(shape, 3, torch.Generator().manual_seed(0)).state_dict()
    save_weights(path.with_suffix(".safetensors"), state)
    document = {
        "protocol": {
            "class_names": ["ant", "bee", "cat"], "model": {"name": name}, "input_shape": list(shape), **protocol,
        },
        "digests": {"weights": state_digest(state)},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(document))
    return load_pin(path)


def photographs(folder: Path, count: int = 5) -> list[Path]:
    rng, paths = np.random.default_rng(0), []
    for k in range(count):
        paths.append(folder / f"{k}.png")
        Image.fromarray(rng.integers(0, 256, (30, 24 + k, 3), dtype=np.uint8)).save(paths[-1])
    return paths


def test_images_are_preprocessed_as_those_of_the_data(tmp_path: Path) -> None:
    model: Any = pinned(tmp_path / "a.yaml", (3, 16, 16), preprocess=STEPS.as_keys())
    paths = photographs(tmp_path)
    expected = Images(files=tuple(map(str, paths)), **vars(STEPS)).batch(torch.arange(5))
    opened = [Image.open(path) for path in paths]
    arrays = [np.array(image) for image in opened]
    tensors = [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
    for images in (
        paths,
        list(map(str, paths)),
        opened,
        arrays,
        tensors,
        [path.read_bytes() for path in paths],
    ):
        assert torch.equal(model.preprocess(images), expected)
    assert torch.equal(model.preprocess(paths[2]), expected[2:3])
    assert torch.equal(model.preprocess(np.stack([arrays[0]] * 2)), expected[[0, 0]])
    with torch.no_grad():
        logits = model(expected)
    for given in (paths, opened, expected, tensors):
        labels, probabilities = model.predict(given)
        assert torch.equal(labels, logits.argmax(dim=1))
        assert torch.allclose(probabilities, torch.softmax(logits, dim=1), atol=1e-6)
    assert model.predict(str(paths[0]))[0].shape == (1,)
    many = model.predict(paths * 30)[0]  # more than pass at once
    assert torch.equal(many, labels.repeat(30))


def test_deep_and_gray_arrays_keep_their_range(tmp_path: Path) -> None:
    # A filter without negative lobes: between its two passes Pillow cuts off what overshoots eight bits.
    steps = replace(STEPS, interpolation="bilinear")
    model: Any = pinned(tmp_path / "a.yaml", (3, 16, 16), preprocess=steps.as_keys())
    eight = np.random.default_rng(1).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    plain = model.preprocess(eight)
    for deep in (eight.astype(np.uint16) * 257, eight / 255.0, (eight / 255.0).astype(np.float32)):
        assert torch.allclose(
            model.preprocess(deep), plain, atol=1.5 / 255 / 0.2
        )  # resizing rounds eight bits
    gray = eight[:, :, 0]
    for one in (gray, gray[:, :, None], np.stack([gray, gray], axis=2)):
        assert torch.equal(model.preprocess(one), model.preprocess(np.stack([gray] * 3, axis=2)))
    transparent = np.concatenate([eight, np.zeros_like(eight[:, :, :1])], axis=2)
    assert torch.equal(model.preprocess(transparent), plain)
    for wrong, problem in ((np.zeros((4, 4, 3), np.int64), "image 0: must be of uint8, uint16 or floats"),
                           (np.zeros((3, 4, 4, 4, 4), np.uint8), "image 0: must have shape"),
                           (np.full((4, 4, 3), 200.0), "image 0: must have pixels between 0 and 1, got 200"),
                           ([None], "image 0: must be an image, its path, an array or a tensor, got NoneType"),
                           ([], "images: must be one at least")):  # fmt: skip
        with pytest.raises(ValueError, match=problem):
            model.preprocess(wrong)
    with pytest.raises(ValueError, match=r"none.png: must be an image that Pillow reads"):
        model.predict([tmp_path / "none.png"])


def test_pins_of_before_have_the_preprocessing_of_then(tmp_path: Path) -> None:
    data = {"name": "image_folder", "path": "away", "size": 16}
    model: Any = pinned(tmp_path / "a.yaml", (3, 16, 16), data=data)
    for name in ("ant", "bee"):
        (tmp_path / "images" / name).mkdir(parents=True)
        photographs(tmp_path / "images" / name)
    config = ImageFolderConfig(str(tmp_path / "images"), size=16, feedback=1, select=1, test=1)
    train = config.load().train
    assert isinstance(train.inputs, Images)
    assert torch.equal(model.preprocess(list(train.inputs.files)), train.whole())


@pytest.mark.parametrize("protocol", [
    {"columns": "features"}, {}, {"columns": ["f1", "f0", "f2", "f3"]},
])  # fmt: skip
def test_tables_of_features_are_predicted(protocol: dict[str, Any], tmp_path: Path) -> None:
    model: Any = pinned(
        tmp_path / "a.yaml", (4,), "linear_head", data={"name": "parquet"}, preprocess=None, **protocol
    )
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(1))
    wide = {f"f{k}": x[:, k].numpy() for k in range(4)}
    table = pa.table({"features": list(x.numpy()), **wide})
    pq.write_table(table, tmp_path / "t.parquet")
    expected = model.predict(x[:, [1, 0, 2, 3]] if isinstance(protocol.get("columns"), list) else x)
    for given in (tmp_path / "t.parquet", str(tmp_path / "t.parquet"), table, table.to_pandas()):
        labels, probabilities = model.predict(given)
        assert torch.equal(labels, expected[0])
        assert torch.allclose(probabilities, expected[1])
    with pytest.raises(ValueError, match="must have a column"):
        model.predict(pa.table({"other": [1.0]}))
    with pytest.raises(ValueError, match=r"the table's samples must have shape \(4,\), got \(2,\)"):
        model.predict(pa.table({"features": [[1.0, 2.0]], "f0": [1.0]})) if "columns" not in protocol else (
            pinned(tmp_path / "b.yaml", (4,), "linear_head", data={"name": "parquet"}, columns=["f0", "f1"])
        ).predict(table)  # type: ignore[operator]
    with pytest.raises(ValueError, match="that are no images with a known preprocessing"):
        model.preprocess([tmp_path / "a.png"])
    with pytest.raises(
        ValueError, match="must be images, a tensor, the path of a Parquet file, or a table, got int"
    ):
        model.predict(3)


def test_tables_of_images_are_predicted(tmp_path: Path) -> None:
    data = {"name": "parquet"}
    model: Any = pinned(
        tmp_path / "a.yaml", (3, 16, 16), data=data, columns="image", preprocess=STEPS.as_keys()
    )
    paths = photographs(tmp_path)
    table = pa.table({"image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths]})
    assert torch.equal(model.predict(table)[1], model.predict(paths)[1])


def test_a_model_without_images_or_table_says_what_it_takes(tmp_path: Path) -> None:
    model: Any = pinned(tmp_path / "a.yaml", (1, 8, 8), data={"name": "digits"})
    assert model.predict(torch.zeros(2, 1, 8, 8))[0].shape == (2,)
    # Arrays are what a notebook has, in NumPy's own precision, too.
    draw = torch.rand(3, 1, 8, 8)
    expected = model.predict(draw)
    for given in (draw.double(), draw.numpy(), draw.double().numpy(), draw.flip(3).numpy()[..., ::-1]):
        labels, probabilities = model.predict(given)
        assert torch.equal(labels, expected[0])
        assert torch.equal(probabilities, expected[1])
    damaged = draw.clone()
    damaged[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="samples must be finite numbers, sample 1 is the first of others"):
        model.predict(damaged)
    with pytest.raises(ValueError, match=r"samples must have shape \(1, 8, 8\), got \(5,\) behind the batch"):
        model.predict(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="group: must be given for each of 3 samples, got 1"):
        model.predict(draw, group=torch.tensor([0]))
    with pytest.raises(ValueError, match=r"takes a tensor of samples of shape \(1, 8, 8\), got list"):
        model.predict(photographs(tmp_path))
