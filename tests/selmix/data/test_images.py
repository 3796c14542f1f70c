"""Images that become floats batch by batch: normalisation, decoding, selection and digests."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selmix.data.images import IMAGENET_MEAN, IMAGENET_STD, Images, batch_of, batches, unreadable
from selmix.data.preprocess import Preprocess, decode


def in_memory(count: int = 5) -> Images:
    pixels = torch.arange(count * 3 * 4, dtype=torch.uint8).view(count, 3, 2, 2)
    return Images(pixels, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))


def write(path: Path, array: np.ndarray, **options: object) -> str:
    Image.fromarray(array).save(path, **options)
    return str(path)


def restored(batch: torch.Tensor) -> torch.Tensor:
    """Bytes of normalised images of files."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((batch * std + mean) * 255).round()


def test_channels_are_normalised_one_by_one() -> None:
    images = in_memory()
    batch = images.batch(torch.tensor([3, 0]))
    assert batch.dtype == torch.float32
    for row, k in enumerate((3, 0)):
        for c in range(3):
            expected = (12 * k + 4 * c + torch.arange(4)) / 255.0
            expected = (expected - images.mean[c]) / images.std[c]
            assert torch.allclose(batch[row, c].flatten(), expected)


def test_a_mask_and_an_index_select_alike_in_memory_and_in_files() -> None:
    mask, index = torch.tensor([True, False, True, True, False]), torch.tensor([0, 2, 3])
    images, files = in_memory(), Images(files=("a", "b", "c", "d", "e"), size=9)
    assert images[mask].digest() == images[index].digest() != images.digest()
    assert files[mask].files == files[index].files == ("a", "c", "d")
    assert files[mask].shape == (3, 3, 9, 9)
    assert (len(images), images.shape) == (5, (5, 3, 2, 2))


@pytest.mark.parametrize("size", [1, 2, 5, 7])
def test_batches_are_all_samples_in_order(size: int) -> None:
    images = in_memory()
    whole = images.batch(torch.arange(5))
    for inputs in (images, whole):
        parts = list(batches(inputs, size))
        assert [len(part) for part in parts] == [min(size, 5 - start) for start in range(0, 5, size)]
        assert torch.equal(torch.cat(parts), whole)
        assert torch.equal(batch_of(inputs, torch.tensor([4, 1])), whole[[4, 1]])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 64), (80, 32), (8, 64)])
def test_the_centre_of_the_resized_image_is_cut_out(height: int, width: int, tmp_path: Path) -> None:
    """Left half black and right half white, top to bottom alike: the edge lies in the middle of every cut-out."""
    array = np.zeros((height, width, 3), np.uint8)
    array[:, width // 2 :] = 255
    images = Images(files=(write(tmp_path / "a.png", array),), size=16)
    (cut,) = restored(images.batch(torch.tensor([0])))
    assert cut.shape == (3, 16, 16)
    assert torch.equal(cut, cut.flip(1))
    assert torch.allclose(cut + cut.flip(2), torch.full((3, 16, 16), 255.0), atol=2.0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_images_of_any_mode_become_three_channels(mode: str, tmp_path: Path) -> None:
    Image.new("RGB", (12, 12), (255, 255, 255)).convert(mode).save(tmp_path / "a.png")
    batch = Images(files=(str(tmp_path / "a.png"),), size=8).batch(torch.tensor([0]))
    assert torch.equal(restored(batch), torch.full((1, 3, 8, 8), 255.0))


def test_the_orientation_beside_the_pixels_is_followed(tmp_path: Path) -> None:
    array = np.zeros((16, 16, 3), np.uint8)
    array[:8] = 255  # the upper half is white; orientation 3 turns it by 180 degrees
    exif = Image.Exif()
    exif[0x0112] = 3
    files = (write(tmp_path / "a.png", array), write(tmp_path / "b.png", array, exif=exif))
    plain, turned = restored(Images(files=files, size=16).batch(torch.arange(2)))
    assert torch.allclose(turned, plain.flip(1), atol=1.0)
    assert float(plain[:, 2].mean()) > 250


def test_files_that_cannot_be_decoded_are_listed_in_order(tmp_path: Path) -> None:
    good = write(tmp_path / "good.png", np.zeros((9, 9, 3), np.uint8))
    broken = [tmp_path / name for name in ("b.jpg", "a.jpg")]
    broken[0].write_bytes(b"")
    broken[1].write_bytes(Path(good).read_bytes()[:40])
    problems = unreadable(
        Images(files=(str(broken[0]), good, str(broken[1]), str(tmp_path / "none.png")), size=8)
    )
    assert [line.split(":")[0] for line in problems] == [*map(str, broken), str(tmp_path / "none.png")]
    assert all("must be an image that Pillow reads" in line for line in problems)
    # Bytes have no name: their address in memory is none.
    with pytest.raises(
        ValueError, match=r"row 3: must be an image that Pillow reads: cannot identify image file$"
    ):
        decode(b"no", Preprocess(size=8), "row 3")
    assert unreadable(Images(size=8)) == []


def test_a_digest_is_of_pixels_size_and_normalisation_and_not_of_names(tmp_path: Path) -> None:
    images = in_memory()
    changed = [dataclasses.replace(images, mean=(0.0, 0.25, 0.0)), dataclasses.replace(images, std=(1.0, 1.0, 2.0)),
               images[torch.tensor([1, 0, 2, 3, 4])]]  # fmt: skip
    assert len({images.digest(), *(other.digest() for other in changed)}) == 4
    array = np.zeros((9, 9, 3), np.uint8)
    one, copy, other = (write(tmp_path / f"{k}.png", array + value) for k, value in ((1, 0), (2, 0), (3, 9)))
    assert Images(files=(one, other)).digest() == Images(files=(copy, other)).digest()
    assert Images(files=(one, other)).digest() != Images(files=(other, one)).digest()
    assert Images(files=(one,), size=8).digest() != Images(files=(one,), size=9).digest()


def test_only_images_of_one_size_and_kind_are_joined() -> None:
    images, files = in_memory(), Images(files=("a", "b"), size=2)
    assert torch.equal(images.joined(images[torch.tensor([1])]).pixels[5], images.pixels[1])  # type: ignore[index]
    assert files.joined(files).files == ("a", "b", "a", "b")
    for other in (files, Images(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))):
        with pytest.raises(
            ValueError, match="joined images must be of one size and all in memory or all in files"
        ):
            images.joined(other)
