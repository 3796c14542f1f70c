"""Leaks between splits: equal contents, contents with two labels, and images that look the same."""

from __future__ import annotations

import io
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from selmix.data.images import Encoded, Images
from selmix.data.leaks import exact_leaks
from selmix.data.near_duplicates import grids_of, near_leaks
from selmix.data.splits import Split


def named(part: str, place: int) -> str:
    return f"{part[0]}{place}"


def split(rows: list[int], labels: list[int]) -> Split:
    return Split(torch.tensor(rows).float().view(-1, 1), torch.tensor(labels).long())


def test_what_lies_in_two_splits_or_has_two_labels_is_named() -> None:
    splits = {
        "train": split([1, 2, 2, 3], [0, 0, 1, 0]), "select": split([3, 4], [0, 1]), "test": split([1, 5], [1, 0])
    }  # fmt: skip
    leaks = exact_leaks(splits, ["cat", "dog"], named)
    assert leaks.in_test == [
        "the same content is in train and in test: t0 (train) = t0 (test)",
        "the same content has two labels, in test: t0 (cat) = t0 (dog)",
    ]
    assert leaks.elsewhere == [
        "the same content is in train and in select: t3 (train) = s0 (select)",
        "the same content has two labels: t1 (cat) = t2 (dog)",
    ]


def test_data_without_leaks_have_no_findings() -> None:
    # Repeated within a split and under one label, and unlabelled samples, are no leak.
    leaks = exact_leaks(
        {"train": split([1, 1], [0, 0]), "test": split([2], [-1]), "select": split([], [])}, ["a"], named
    )
    assert (leaks.in_test, leaks.elsewhere) == ([], [])


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_the_findings_are_those_of_a_loop(samples: list[tuple[int, int, int]]) -> None:
    names = ("train", "feedback", "select", "test")
    splits = {
        name: split([c for c, part, _ in samples if part == p], [y for _, part, y in samples if part == p])
        for p, name in enumerate(names)
    }
    homes, labels = defaultdict(set), defaultdict(set)
    for content, part, label in samples:
        homes[content].add(names[part])
        labels[content].add(label)
    pairs = {
        (a, b) for parts in homes.values() for a in parts for b in parts if names.index(a) < names.index(b)
    }
    disputed = [content for content in labels if len(labels[content]) == 2]
    leaks = exact_leaks(splits, ["a", "b"], named)
    found = [*leaks.in_test, *leaks.elsewhere]
    assert {line.split(":")[0] for line in found if "two labels" not in line} == {
        f"the same content is in {a} and in {b}" for a, b in pairs
    }
    assert any("two labels, in test" in line for line in leaks.in_test) == any(
        "test" in homes[c] for c in disputed
    )
    assert any("two labels:" in line for line in leaks.elsewhere) == any(
        "test" not in homes[c] for c in disputed
    )


def test_many_findings_are_a_count_and_three_examples() -> None:
    rows = list(range(100))
    (line,) = exact_leaks(
        {"train": split(rows, [0] * 100), "test": split(rows, [0] * 100)}, ["a"], named
    ).in_test
    assert line == (
        "the same content is in train and in test: 100 contents: t0 (train) = t0 (test); t1 (train) = t1 (test); "
        "t2 (train) = t2 (test); and 97 more"
    )


def photograph(k: int, side: int = 40) -> Image.Image:
    """Smooth random colours, as photographs have them."""
    low = np.random.default_rng(k).integers(0, 255, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(low).resize((side, side), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def alike(first: list[bytes], second: list[bytes]) -> list[str]:
    images = {
        "train": Images(encoded=Encoded.of(first), size=16),
        "test": Images(encoded=Encoded.of(second), size=16),
    }
    return near_leaks(images, {part: grids_of(each)[0] for part, each in images.items()}, named)


@pytest.mark.parametrize(
    "copy",
    [
        lambda image: encoded(image, "JPEG", quality=60),
        lambda image: encoded(image.resize((97, 97))),
        lambda image: encoded(ImageEnhance.Brightness(image).enhance(0.8)),
        lambda image: encoded(image.convert("L")),
    ],
)
def test_a_photograph_in_another_format_size_or_brightness_is_found(copy: object) -> None:
    train = [encoded(photograph(k)) for k in range(30)]
    assert callable(copy)
    test = [encoded(photograph(k)) for k in range(50, 60)] + [copy(photograph(7))]
    assert alike(train, test) == ["images of test look like images of train: t10 (test) is like t7 (train)"]


def test_other_images_flat_ones_and_equal_bytes_are_not_near_duplicates() -> None:
    flat = [encoded(Image.new("RGB", (20, 20), (k, k, k))) for k in range(5)]
    train = [encoded(photograph(k)) for k in range(40)]
    assert alike([*train, *flat], [*(encoded(photograph(k)) for k in range(50, 90)), *flat, train[3]]) == []


def test_images_that_cannot_be_decoded_are_named_and_like_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    photograph(1).save(tmp_path / "b.png")
    grids, problems = grids_of(Images(files=(str(tmp_path / "a.png"), str(tmp_path / "b.png")), size=16))
    assert len(problems) == 1
    assert problems[0].startswith(f"{tmp_path / 'a.png'}: ")
    assert torch.isnan(grids[0]).all()
    assert torch.isfinite(grids[1]).all()
