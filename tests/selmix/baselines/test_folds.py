"""Folds by content: stratified, independent of the order of the samples, copies together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from selmix.baselines.folds import content_folds, most_folds, sample_digests
from selmix.data.images import Images
from selmix.data.splits import Split


def split(sizes: list[int], groups: bool = False, seed: int = 0) -> Split:
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    inputs = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(seed))
    return Split(inputs, labels, torch.arange(len(labels)) % 2 if groups else None)


@given(st.lists(st.integers(6, 25), min_size=2, max_size=5), st.booleans())
@settings(max_examples=25, deadline=None)
def test_every_class_and_every_fold_are_spread_evenly(sizes: list[int], groups: bool) -> None:
    whole = split(sizes, groups)
    (folds,) = content_folds((whole,), 3)
    strata = whole.labels if whole.groups is None else whole.labels * 2 + whole.groups
    for stratum in strata.unique():
        counts = torch.bincount(folds[strata == stratum], minlength=3)
        assert counts.max() - counts.min() <= 1
    counts = torch.bincount(folds, minlength=3)
    assert counts.max() - counts.min() <= 1


def test_a_sample_keeps_its_fold_in_any_order_and_split() -> None:
    whole = split([12, 10])
    (folds,) = content_folds((whole,))
    order = torch.randperm(22, generator=torch.Generator().manual_seed(1))
    parts = content_folds((whole.take(order[:9]), whole.take(order[9:])))
    assert [len(part) for part in parts] == [9, 13]
    assert torch.equal(torch.cat(parts), folds[order])


def test_copies_lie_in_one_fold_even_under_another_label() -> None:
    whole = split([12, 12])
    copy = Split(whole.inputs[:3], torch.tensor([0, 1, 1]))  # type: ignore[arg-type]
    folds, copied = content_folds((whole, copy))
    assert torch.equal(copied, folds[:3])


def test_a_class_with_fewer_than_two_samples_a_fold_is_refused() -> None:
    content_folds((split([10, 12]),), 5)
    with pytest.raises(ValueError, match=r"5 folds need at least 10 samples of every class, class 1, 2 has"):
        content_folds((split([10, 9, 4]),), 5)


@pytest.mark.parametrize(("sizes", "expected"), [([10, 40], 5), ([9, 40], 4), ([4, 40], 2), ([1, 40], 2)])
def test_the_most_folds_that_the_least_class_allows(sizes: list[int], expected: int) -> None:
    assert most_folds((split(sizes),)) == expected


def test_pixels_and_files_are_digested_by_their_content(tmp_path: Path) -> None:
    pixels = torch.arange(3 * 3 * 4 * 4, dtype=torch.uint8).view(3, 3, 4, 4) // 2
    pixels[2] = pixels[0]
    first, second, third = sample_digests(Images(pixels))
    assert first == third != second
    for name, shade in (("a", 0), ("b", 9), ("c", 0)):
        Image.new("RGB", (4, 4), (shade, 0, 0)).save(tmp_path / f"{name}.png")
    files = tuple(str(tmp_path / f"{name}.png") for name in "abc")
    first, second, third = sample_digests(Images(files=files, size=4))
    assert first == third != second
