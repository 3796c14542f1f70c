"""Augmentation against a loop over samples, the rows of a part of a batch, and what strong augmentation changes."""

from __future__ import annotations

import pytest
import torch

from selmix.augment import BLOT, DROPPED, NOISE, strong, weak


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 16, 24), (3, 5, 40)])
def test_a_weak_image_is_a_window_of_the_image_with_its_edges_repeated(
    channels: int, height: int, width: int
) -> None:
    """Every sample is found among its own windows, mirrored where there are three channels; no other pixel is made."""
    inputs = torch.rand(12, channels, height, width, generator=generator())
    reach = max(1, min(height, width) // 8)
    moved, found = weak(inputs, generator(1)), []
    for image, result in zip(inputs, moved, strict=True):
        places = []
        for down in range(-reach, reach + 1):
            for right in range(-reach, reach + 1):
                rows = (torch.arange(height) + down).clamp(0, height - 1)
                columns = (torch.arange(width) + right).clamp(0, width - 1)
                window = image[:, rows][:, :, columns]
                places += [(down, right, False)] * torch.equal(window, result)
                places += [(down, right, True)] * torch.equal(window.flip(2), result)
        assert len(places) == 1
        found += places
    assert len({place[:2] for place in found}) > 3
    assert {place[2] for place in found} == ({True, False} if channels == 3 else {False})


def test_shifts_are_uniform_and_flips_are_fair() -> None:
    """One bright pixel in the middle of 4,000 images; the image's left half tells a flip."""
    inputs = torch.zeros(4000, 3, 9, 9)
    inputs[:, :, 4, 4], inputs[:, :, 4, 3] = 2.0, 1.0
    moved = weak(inputs, generator())
    bright = torch.nonzero(moved[:, 0] == 2.0)
    for axis in (1, 2):
        shares = torch.bincount(bright[:, axis], minlength=9)[3:6] / 4000
        assert float((shares - 1 / 3).abs().max()) < 4 * (2 / 9 / 4000) ** 0.5
    dim = torch.nonzero(moved[:, 0] == 1.0)
    flipped = (dim[:, 2] > bright[:, 2]).double().mean()
    assert float(flipped) == pytest.approx(0.5, abs=4 * (0.25 / 4000) ** 0.5)


@pytest.mark.parametrize("part", [slice(0, 3), slice(3, 8), slice(0, 8)])
def test_rows_of_a_batch_are_changed_as_within_the_whole(part: slice) -> None:
    inputs = torch.rand(8, 3, 8, 8, generator=generator())
    whole, own = generator(2), generator(2)
    expected = weak(inputs, whole)[part]
    assert torch.equal(weak(inputs[part], own, 8, part), expected)
    assert torch.equal(own.get_state(), whole.get_state())


def test_vectors_pass_weak_augmentation_and_draw_nothing() -> None:
    inputs, untouched = torch.rand(4, 5), generator()
    assert weak(inputs, untouched) is inputs
    assert torch.equal(untouched.get_state(), generator().get_state())


def test_strong_vectors_lose_a_fifth_of_their_entries_and_gain_a_tenth_of_noise() -> None:
    inputs = 3.0 + 2.0 * torch.randn(200, 100, generator=generator())
    found = strong(inputs, generator(1))
    kept = found != 0.0
    assert float(kept.double().mean()) == pytest.approx(1 - DROPPED, abs=4 * (0.16 / 20_000) ** 0.5)
    noise = (found - inputs)[kept]
    assert float(noise.std()) == pytest.approx(NOISE * float(inputs.std()), rel=0.03)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(("height", "width"), [(9, 9), (8, 20), (2, 2)])
def test_a_strong_image_has_one_blot_of_its_own_mean(height: int, width: int) -> None:
    """On an image without contrast nothing but brightness could change, and that has no deviation to go by."""
    flat = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, height, width).contiguous()
    assert torch.allclose(strong(flat, generator()), flat)
    inputs = torch.rand(6, 3, height, width, generator=generator())
    found, moved = strong(inputs, generator(1)), weak(inputs, generator(1))
    for image, before in zip(found, moved, strict=True):
        blot = (image - before.mean()).abs().amax(dim=0) < 1e-6
        rows, columns = blot.any(dim=1).sum(), blot.any(dim=0).sum()
        assert (int(rows), int(columns)) == (max(1, height // BLOT), max(1, width // BLOT))
        assert int(blot.sum()) == int(rows * columns)
        # Outside of the blot every pixel is one linear function of what it was: contrast and brightness.
        x, y = before[:, ~blot].flatten().double(), image[:, ~blot].flatten().double()
        slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
        assert 0.6 - 1e-4 <= float(slope) <= 1.4 + 1e-4
        offset = y - slope * x
        assert float(offset.max() - offset.min()) < 1e-4
        shift = (slope * before.mean().double() + offset.mean() - before.mean()) / before.std().double()
        assert abs(float(shift)) <= 0.2 + 1e-4
