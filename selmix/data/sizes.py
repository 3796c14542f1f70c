"""What every data set of images asks of its splits, and how samples are dealt out to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from selmix.data.images import Images
from selmix.data.splits import Split, SweepData


def size_problems(sizes: Mapping[str, tuple[float | None, float]]) -> list[str]:
    """``key: must be >= LEAST, got VALUE`` for each of ``key -> (value, least)`` that is too small; None is let be."""
    return [
        f"{key}: must be >= {least:g}, got {value:g}"
        for key, (value, least) in sizes.items()
        if value is not None and not value >= least
    ]


def held_by_class(labels: Tensor, class_names: Sequence[str]) -> list[int]:
    """Samples of each class."""
    return torch.bincount(labels, minlength=len(class_names)).tolist()


def check_held(
    where: str, class_names: Sequence[str], held: Sequence[int], asked: Sequence[int], what: str
) -> None:
    """Every class holds what is asked of it.

    Raises:
        ValueError: names the classes (the first six) that do not.
    """
    short = [
        f"class {name} holds {count} samples, {what} ask for {wanted}"
        for name, count, wanted in zip(class_names, held, asked, strict=True)
        if count < wanted
    ]
    if short:
        more = f"; and {len(short) - 6} more" if len(short) > 6 else ""
        raise ValueError(f"{where}: " + "; ".join(short[:6]) + more)


def sweep_data(
    name: str, class_names: tuple[str, ...], parts: Mapping[str, Callable[[], Split]]
) -> SweepData:
    """Train, feedback and select, and unlabelled where there is such a part, with the digests of all parts."""
    splits = {part: make() for part, make in parts.items()}
    digests = {part: split.digest() for part, split in splits.items()}
    return SweepData(
        name, class_names, splits["train"], splits["feedback"], splits["select"], digests,
        unlabelled=splits.get("unlabelled"),
    )  # fmt: skip


def split_of(images: Images, labels: Tensor, index: Tensor) -> Split:
    """The samples at ``index``."""
    return Split(images[index], labels[index])
