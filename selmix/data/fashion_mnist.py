"""Fashion-MNIST, made long-tailed, from its official IDX files.

Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
2017, arXiv:1708.07747.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from selmix.data.archives import PackagedFiles
from selmix.data.idx import read_idx
from selmix.data.images import Images
from selmix.data.longtail import long_tailed_counts, split_by_class
from selmix.data.sizes import check_held, held_by_class, size_problems, split_of, sweep_data
from selmix.data.splits import Split, SweepData

PARTS = ("train", "feedback", "select", "test", "unlabelled")
CLASSES, SIDE = 10, 28
PACKAGE, PACKAGE_FOLDER = "dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist"
# Of each class in the official files. Written down, so that the sizes of a sweep file are checked without them.
TRAIN_IMAGES, TEST_IMAGES = 6000, 1000
# Of all pixels of the 60,000 official training images, scaled to [0, 1]; a test measures them.
MEAN, STD = (0.2860,), (0.3530,)
_LABELS, _IMAGES = "{}-labels-idx1-ubyte", "{}-images-idx3-ubyte"
_PREFIX = {"train": "train", "test": "t10k"}


@dataclass(frozen=True)
class FashionMnistConfig:
    """Folder of the official files, and sizes of the splits.

    Train, feedback, select and unlabelled samples are disjoint parts of the official training images, 6,000 of each
    class; test samples are official test images, 1,000 of each class.

    Attributes:
        path: folder of the four official files, as they are (``train-images-idx3-ubyte.gz`` and so on) or
            decompressed; where it is left out, that of Debian's package ``dataset-fashion-mnist``.
        imbalance: training samples of the largest over those of the smallest class.
        largest_class: training samples of the largest class; which class that is, and the order of the others,
            follows from the seed.
        feedback: samples per class.
        select: samples per class.
        test: samples per class.
        seed: of the order of the classes and of the split.
        unlabelled: samples per class without labels, for the partner samples of pairs and for pre-training.
    Raises:
        ValueError: a size out of range, or more samples than a class holds. Reading raises ValueError for files that
            are missing or damaged.
    """

    path: str = PACKAGE_FOLDER
    imbalance: float = 100.0
    largest_class: int = 1000
    feedback: int = 100
    select: int = 200
    test: int = TEST_IMAGES
    seed: int = 0
    unlabelled: int = 0

    name: ClassVar[str] = "fashion_mnist"
    unlabelled_key: ClassVar[str] = "unlabelled"
    input_shape: ClassVar[tuple[int, ...]] = (1, SIDE, SIDE)
    class_names: ClassVar[tuple[str, ...]] = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip

    def __post_init__(self) -> None:
        sizes = {"imbalance": (self.imbalance, 1), "largest_class": (self.largest_class, 1),
                 "feedback": (self.feedback, 0), "select": (self.select, 1), "test": (self.test, 1),
                 "unlabelled": (self.unlabelled, 0)}  # fmt: skip
        problems = size_problems(sizes)
        if self.test > TEST_IMAGES:
            problems.append(
                f"test: must be <= {TEST_IMAGES}, the official test images of a class, got {self.test}"
            )
        requested = self.largest_class + self.feedback + self.select + self.unlabelled
        if not problems and requested > TRAIN_IMAGES:
            asked = (
                f"{self.largest_class} + {self.feedback} + {self.select} + {self.unlabelled} = {requested}"
            )
            problems.append(
                f"largest_class + feedback + select + unlabelled must be <= {TRAIN_IMAGES}, the official training "
                f"images of a class, got {asked}"
            )
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def class_order(self) -> list[int]:
        """Classes from the one with the most training samples to the one with the fewest."""
        return _draw_order(torch.Generator().manual_seed(self.seed))

    @property
    def train_sizes(self) -> list[int]:
        """Training samples of each class."""
        falling = long_tailed_counts(CLASSES, self.largest_class, self.imbalance)
        by_class = dict(zip(self.class_order, falling, strict=True))
        return [by_class[k] for k in range(CLASSES)]

    @property
    def official(self) -> PackagedFiles:
        """Official files, and the package that brings them."""
        names = [name.format(prefix) for prefix in _PREFIX.values() for name in (_IMAGES, _LABELS)]
        return PackagedFiles("Fashion-MNIST", Path(self.path), tuple(names), PACKAGE)

    # cached_property writes to __dict__ directly, so it works on a frozen dataclass.
    @cached_property
    def _official_train(self) -> tuple[Images, Tensor]:
        return self._read("train")

    def _read(self, part: str) -> tuple[Images, Tensor]:
        """Images and labels, shape (n,), int64, of the official ``train`` or ``test`` files."""
        files = [self.official.located(name.format(_PREFIX[part])) for name in (_LABELS, _IMAGES)]
        labels, pixels = read_idx(files[0], ()), read_idx(files[1], (SIDE, SIDE))
        if len(pixels) != len(labels):
            raise ValueError(
                f"{files[1]}: must hold one image for each of {len(labels)} labels, got {len(pixels)}"
            )
        if int(labels.max()) >= CLASSES:
            raise ValueError(f"{files[0]}: labels must lie below {CLASSES}, got {int(labels.max())}")
        return Images(pixels.unsqueeze(1), mean=MEAN, std=STD), labels.long()

    @cached_property
    def _index(self) -> list[Tensor]:
        labels = self._official_train[1]
        held = (self.feedback, self.select, 0, self.unlabelled)
        # In the order of PARTS; none for test, which has official images of its own.
        sizes = [self.train_sizes, *([count] * CLASSES for count in held)]
        splits = "train, feedback and select" + (" and unlabelled" if self.unlabelled else "")
        self._check_held("train", labels, [sum(counts) for counts in zip(*sizes, strict=True)], splits)
        generator = torch.Generator().manual_seed(self.seed)
        # The split goes on where the order of the classes ends: the two must not share their numbers.
        _draw_order(generator)
        return split_by_class(labels, sizes, generator)

    def _check_held(self, part: str, labels: Tensor, requested: list[int], splits: str) -> None:
        # The official files always hold as many; others of the same format may not.
        source = str(self.official.located(_LABELS.format(_PREFIX[part])))
        check_held(source, self.class_names, held_by_class(labels, self.class_names), requested, splits)

    def _part(self, part: str) -> Split:
        if part != "test":
            return split_of(*self._official_train, self._index[PARTS.index(part)])
        images, labels = self._read("test")
        sizes = [self.test] * CLASSES
        self._check_held("test", labels, sizes, "the sizes of test")
        (index,) = split_by_class(labels, [sizes], torch.Generator().manual_seed(self.seed))
        # In the order of the file: all of its images are the same split for every seed.
        return split_of(images, labels, index.sort().values)

    def load(self) -> SweepData:
        """Load train, feedback and select."""
        # ``unlabelled`` is the last of PARTS and left out where there is none.
        # ``p=p``: a closure would see the last part.
        parts = {p: lambda p=p: self._part(p) for p in PARTS[: 4 + bool(self.unlabelled)]}
        return sweep_data(self.name, self.class_names, parts)

    def load_test(self) -> Split:
        """Load the test split, kept apart from the data that a sweep sees."""
        return self._part("test")


def _draw_order(generator: torch.Generator) -> list[int]:
    """Draw the order of the classes."""
    order: list[int] = torch.randperm(CLASSES, generator=generator).tolist()
    return order
