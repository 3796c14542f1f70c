"""From an encoded image to a model's input: geometry, range, modes, and what is refused."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as vision

from selmix.data.images import Encoded, Images
from selmix.data.preprocess import CROPS, INTERPOLATIONS, Preprocess, decode

STEPS = Preprocess(size=16, resize=16)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(height * width).integers(0, 256, shape, dtype=np.uint8)


def png(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 77), (77, 50), (33, 200), (16, 16), (9, 13)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_the_centre_is_that_of_torchvision_to_the_bit(height: int, width: int, interpolation: str) -> None:
    image = Image.fromarray(noise(height, width))
    steps = Preprocess(size=24, resize=29, interpolation=interpolation)
    resized = vision.resize(image, [29], InterpolationMode(interpolation))
    expected = vision.pil_to_tensor(vision.center_crop(resized, [24]))
    assert torch.equal(decode(image, steps), expected)
    batch = Images(encoded=Encoded.of([png(image)]), **steps.as_keys()).batch(torch.tensor([0]))
    normal = vision.normalize(expected / 255.0, list(steps.mean), list(steps.std))
    assert torch.allclose(batch[0], normal, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(40, 60), (61, 40), (16, 16)])
def test_squash_gives_up_the_aspect_ratio_and_border_keeps_the_whole(height: int, width: int) -> None:
    image = Image.fromarray(noise(height, width))
    squashed = decode(image, Preprocess(size=20, resize=24, crop="squash"))
    resized = image.resize((24, 24), Image.Resampling.BILINEAR)
    assert torch.equal(squashed, vision.pil_to_tensor(resized)[:, 2:22, 2:22])
    bordered = decode(image, Preprocess(size=20, resize=20, crop="border", mean=(0.2, 0.4, 0.6)))
    wide, high = (round(side * 20 / max(height, width)) for side in (width, height))
    left, top = (20 - wide) // 2, (20 - high) // 2
    whole = vision.pil_to_tensor(image.resize((wide, high), Image.Resampling.BILINEAR))
    assert torch.equal(bordered[:, top : top + high, left : left + wide], whole)
    outside = bordered.clone()
    outside[:, top : top + high, left : left + wide] = torch.tensor([51, 102, 153]).view(3, 1, 1)
    assert torch.equal(outside, torch.tensor([51, 102, 153]).view(3, 1, 1).expand(3, 20, 20).byte())


def sixteen_bit(mean: float) -> np.ndarray:
    """Noise around ``mean``, a share of white."""
    rng = np.random.default_rng(0)
    return (np.clip(mean + rng.uniform(-0.1, 0.1, (32, 40)), 0, 1) * 65535).astype(np.uint16)


@pytest.mark.parametrize("mean", [0.15, 0.48, 0.9])
@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_keep_their_range(mean: float, suffix: str, tmp_path: Path) -> None:
    array = sixteen_bit(mean)
    Image.fromarray(array).save(tmp_path / f"a.{suffix}")
    for interpolation in ("bilinear", "bicubic"):
        got = decode(tmp_path / f"a.{suffix}", Preprocess(size=32, resize=32, interpolation=interpolation))
        assert got.dtype == torch.float32
        assert got.shape == (3, 32, 32)
        assert float(got.mean()) == pytest.approx(mean, abs=0.01)
        # Not rounded to eight bits on the way.
        assert torch.allclose(got[0], torch.from_numpy(array[:, 4:36] / 65535.0).float(), atol=1e-6)


def test_a_batch_of_both_depths_is_of_one_range(tmp_path: Path) -> None:
    eight = (sixteen_bit(0.48) >> 8).astype(np.uint8)
    encoded = Encoded.of([png(Image.fromarray(eight)), png(Image.fromarray(sixteen_bit(0.48)))])
    images = Images(encoded=encoded, size=32, resize=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    first, second = images.batch(torch.arange(2))
    assert float((first - second).abs().max()) < 1.5 / 255  # what eight bits round away


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (200, 100, 50)), ("RGBA", (200, 100, 50, 0)), ("L", 120),
                                              ("LA", (120, 0)), ("CMYK", (55, 155, 205, 0))])  # fmt: skip
def test_eight_bit_modes_become_colours_without_transparency(mode: str, colour: Any) -> None:
    got = decode(Image.new(mode, (20, 30), colour), STEPS)
    expected = (120, 120, 120) if mode in ("L", "LA") else (200, 100, 50)
    assert torch.equal(got, torch.tensor(expected).view(3, 1, 1).expand(3, 16, 16).byte())


def test_a_transparent_colour_of_a_palette_stays_what_it_is() -> None:
    image = Image.fromarray(noise(20, 20)).quantize(8)
    opened = Image.open(io.BytesIO(png(image, transparency=bytes([0, 128, 255]))))
    assert torch.equal(decode(opened, STEPS), decode(image.convert("RGB"), STEPS))


def test_floats_and_32_bits_have_the_range_that_is_known_or_given(tmp_path: Path) -> None:
    share = np.linspace(0, 1, 400).reshape(20, 20)
    paths = {}
    for name, array in {"share": share, "bytes": share * 255, "ints": (share * 4095)}.items():
        paths[name] = tmp_path / f"{name}.tif"
        Image.fromarray(array.astype(np.int32 if name == "ints" else np.float32)).save(paths[name])
    plain = decode(paths["share"], Preprocess(size=20, resize=20))
    assert torch.allclose(plain[1], torch.from_numpy(share).float(), atol=1e-6)
    with pytest.raises(
        ValueError, match=r"bytes.tif: must have pixels between 0 and 1, got 0 to 255; give data.white"
    ):
        decode(paths["bytes"], STEPS)
    with pytest.raises(
        ValueError, match=r"ints.tif: must be an image of a known range, got 32-bit whole numbers, 0"
    ):
        decode(paths["ints"], STEPS)
    for name, white in (("bytes", 255.0), ("ints", 4095.0)):
        got = decode(paths[name], Preprocess(size=20, resize=20, white=white))
        assert torch.allclose(got, plain, atol=3e-4)  # ints were cut to whole numbers
    with pytest.raises(ValueError, match="must have pixels between 0 and 1, got nan to nan"):
        decode(Image.fromarray(np.full((9, 9), math.nan, np.float32)), STEPS)


def test_what_is_no_image_or_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "damaged.tif"
    damaged.write_bytes(b"II*\0" + bytes(20))
    with pytest.raises(ValueError, match=r"damaged.tif: must be an image that Pillow reads"):
        decode(damaged, STEPS)
    with pytest.raises(ValueError, match=r"t.parquet: row 1: must be an image that Pillow reads"):
        Images(encoded=Encoded.of([png(Image.new("L", (9, 9))), b"no image"], "t.parquet"), size=8).batch(
            torch.arange(2)
        )
    Image.new("L", (100, 100)).save(tmp_path / "bomb.png")
    for limit in (
        4000,
        8000,
    ):  # beyond twice the limit Pillow raises, below it warns, which is an error in these tests
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match=r"bomb.png: must be an image that fits in memory.*10000 pixels"):
            decode(tmp_path / "bomb.png", STEPS)


def test_the_input_range_is_that_of_the_model() -> None:
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    raw = Preprocess(mean=(0.0,) * 3, std=(1.0,) * 3, input_range=255).normalised(pixels)
    assert raw[0, 0, 0].tolist() == [0.0, 255.0]
    caffe = Preprocess(mean=(123.0, 116.0, 103.0), std=(1.0,) * 3, input_range=255).normalised(pixels)
    assert caffe[0, :, 0, 1].tolist() == [132.0, 139.0, 152.0]


@pytest.mark.parametrize(("changes", "problem"), [
    ({"size": 7}, "size: must be >= 8, got 7"),
    ({"resize": 200}, "resize: must be >= size, 224, as the centre is cut out, got 200"),
    ({"resize": 0, "crop": "border"}, "resize: must be >= 1, got 0"),
    ({"crop": "centre"}, "crop: must be one of center, squash, border, got 'centre'"),
    ({"interpolation": "cubic"}, "interpolation: must be one of nearest, box, bilinear, hamming, bicubic, lanczos"),
    ({"input_range": 2}, "input_range: must be one of 1, 255, got 2"),
    ({"mean": (0.5,)}, "mean: must have 3 numbers, for red, green and blue, got 1"),
    ({"mean": (123.7, 116.3, 103.5)}, "mean: must lie between 0 and input_range, 1, got [123.7, 116.3, 103.5]; give "
                                      "input_range: 255"),
    ({"mean": (0.5, 0.5, 0.5), "input_range": 255}, "mean: must be in units of input_range, 0 to 255"),
    ({"mean": (math.nan, 0.5, 0.5)}, "mean: must lie between 0 and input_range, 1"),
    ({"std": (0.5, 0.0, 0.5)}, "std: must be > 0, got [0.5, 0.0, 0.5]"),
    ({"white": 0.0}, "white: must be > 0, got 0"),
])  # fmt: skip
def test_keys_out_of_range_are_refused(changes: dict[str, Any], problem: str) -> None:
    (found,) = replace(Preprocess(), **changes).problems()
    assert found.startswith(problem)


def test_keys_in_range_are_accepted() -> None:
    for crop in CROPS:
        for interpolation in INTERPOLATIONS:
            assert Preprocess(size=8, resize=8, crop=crop, interpolation=interpolation).problems() == []
    assert Preprocess(resize=100, crop="border", white=4095.0).problems() == []
    assert Preprocess(mean=(123.7, 116.3, 103.5), std=(1.0, 1.0, 1.0), input_range=255).problems() == []
    assert Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), input_range=255).problems() == []


def test_the_keys_of_a_sweep_file_are_the_steps() -> None:
    steps = Preprocess(size=64, resize=70, crop="squash", mean=(0.5, 0.5, 0.5), white=4095.0)
    assert Preprocess.of_keys({"name": "image_folder", "path": "a", **steps.as_keys()}) == steps
    assert Preprocess.of_keys({}) == Preprocess()
    assert Preprocess(size=9).is_earlier
    assert not Preprocess(resize=256).is_earlier


def test_encoded_images_are_those_of_the_files(tmp_path: Path) -> None:
    contents = [png(Image.fromarray(noise(20, 20 + k))) for k in range(5)]
    files = []
    for k, content in enumerate(contents):
        (tmp_path / f"{k}.png").write_bytes(content)
        files.append(str(tmp_path / f"{k}.png"))
    on_disk, held = Images(files=tuple(files), size=16), Images(encoded=Encoded.of(contents), size=16)
    assert (len(held), held.shape) == (5, (5, 3, 16, 16))
    assert torch.equal(held.batch(torch.arange(5)), on_disk.batch(torch.arange(5)))
    assert held.digest() == on_disk.digest()
    assert held.content_digests() == on_disk.content_digests()
    index = torch.tensor([4, 1])
    mask = torch.tensor([False, True, True, False, True])
    for chosen in (index, mask):
        assert torch.equal(held[chosen].batch(torch.arange(2)), on_disk[chosen].batch(torch.arange(2)))
    both = held[index].joined(held[mask])
    assert both.encoded is not None
    assert [both.encoded.bytes_of(k) for k in range(5)] == [contents[k] for k in (4, 1, 1, 2, 4)]
    compact = both.encoded.compact()
    assert [compact.bytes_of(k) for k in range(5)] == [contents[k] for k in (4, 1, 1, 2, 4)]
    assert (compact.name_of(0), len(compact.buffers)) == ("image: row 4", 1)
    with pytest.raises(
        ValueError, match="joined images must be of one size and all in memory or all in files"
    ):
        held.joined(on_disk)
    with pytest.raises(ValueError, match="joined images must be of one size"):
        held.joined(replace(held, resize=20))
