"""Checks of the sizes of splits and of the order of classes, and their assembly, shared by the data sets of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from selmix.data.images import Images
from selmix.data.splits import Split, SweepData


def size_problems(sizes: Mapping[str, tuple[float | None, float]]) -> list[str]:
    """Problems ``key: must be >= MINIMUM, got VALUE``, one for each value that is too small.

    Args:
        sizes: key -> (value, minimum); a value of None is left alone.
    """
    # ``not ... >=`` and not ``<``, so that NaN is refused too.
    return [
        f"{key}: must be >= {minimum:g}, got {value:g}"
        for key, (value, minimum) in sizes.items()
        if value is not None and not value >= minimum
    ]


def order_problems(class_order: Sequence[str] | None) -> list[str]:
    """Problems of the names of the classes as a file gives them."""
    if class_order is None:
        return []
    if len(class_order) < 2:
        return [f"class_names: must name two or more classes, got {list(class_order)}"]
    twice = [name for place, name in enumerate(class_order) if name in class_order[:place]]
    return [f"class_names: must name each class once, got {twice[0]!r} again"] if twice else []


def held_by_class(labels: Tensor, class_names: Sequence[str]) -> list[int]:
    """Count the samples of each class."""
    # ``minlength``: a class without a sample at the end must count as 0.
    return torch.bincount(labels, minlength=len(class_names)).tolist()


def check_held(
    source: str, class_names: Sequence[str], held: Sequence[int], requested: Sequence[int], splits: str
) -> None:
    """Check that every class holds as many samples as its splits request.

    Args:
        source: path of the data, for the message.
        class_names: K texts.
        held: samples of each class.
        requested: samples that the splits take from each class.
        splits: their names, for the message.
    Raises:
        ValueError: names the classes (the first six) that hold too few.
    """
    short = [
        f"class {name} holds {count} samples, {splits} ask for {needed}"
        for name, count, needed in zip(class_names, held, requested, strict=True)
        if count < needed
    ]
    if short:
        # Data sets may have thousands of classes.
        more = f"; and {len(short) - 6} more" if len(short) > 6 else ""
        raise ValueError(f"{source}: " + "; ".join(short[:6]) + more)


def sweep_data(
    name: str, class_names: tuple[str, ...], parts: Mapping[str, Callable[[], Split]]
) -> SweepData:
    """Load the parts of a sweep, with the digests of all of them.

    Args:
        name: of the data set.
        class_names: K texts.
        parts: train, feedback, select and test, and unlabelled where there is such a part -> its loader.
    """
    # Test is loaded for its digest, and dropped.
    splits = {part: make() for part, make in parts.items()}
    digests = {part: split.digest() for part, split in splits.items()}
    return SweepData(
        name, class_names, splits["train"], splits["feedback"], splits["select"], digests,
        unlabelled=splits.get("unlabelled"),
    )  # fmt: skip


def split_of(images: Images, labels: Tensor, index: Tensor) -> Split:
    """Split of the samples at ``index``.

    Args:
        images: n of them.
        labels: shape (n,), int64.
        index: shape (m,), int64.
    """
    return Split(images[index], labels[index])
