"""STL-10, made long-tailed, from its official binary files.

Source: Coates, Lee and Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", AISTATS 2011.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selmix.data.archives import OfficialFiles
from selmix.data.images import Images
from selmix.data.longtail import long_tailed_counts, split_by_class
from selmix.data.sizes import check_held, held_by_class, size_problems, split_of, sweep_data
from selmix.data.splits import Split, SweepData

PARTS = ("train", "feedback", "select", "test")
SIDE = 96
MEAN, STD = (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)


@dataclass(frozen=True)
class StlConfig:
    """Folder of the official files, and sizes of the splits; the official test images are the test split.

    Attributes:
        path: folder of the extracted archive (``train_X.bin``, ``train_y.bin``, ``test_X.bin``, ``test_y.bin``).
        imbalance: labelled training samples of the largest over those of the smallest class.
        largest_class: training samples of class 0.
        feedback: samples per class, taken from the official training images (500 per class).
        select: samples per class, taken from the official training images.
        seed: of the split.
        unlabelled: number of the 100,000 images without labels (``unlabeled_X.bin``, also of other classes) that are
            drawn; 0: none.
    Raises:
        ValueError: a size out of range. Reading raises ValueError for files that are missing or damaged.
    """

    path: str
    imbalance: float = 10.0
    largest_class: int = 300
    feedback: int = 50
    select: int = 50
    seed: int = 0
    unlabelled: int = 0

    name: ClassVar[str] = "stl10"
    unlabelled_key: ClassVar[str] = "unlabelled"
    input_shape: ClassVar[tuple[int, ...]] = (3, SIDE, SIDE)
    class_names: ClassVar[tuple[str, ...]] = (
        "airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck",
    )  # fmt: skip

    def __post_init__(self) -> None:
        sizes = {"imbalance": (self.imbalance, 1), "largest_class": (self.largest_class, 1),
                 "feedback": (self.feedback, 0), "select": (self.select, 1),
                 "unlabelled": (self.unlabelled, 0)}  # fmt: skip
        if problems := size_problems(sizes):
            raise ValueError("\n".join(problems))

    @property
    def train_sizes(self) -> list[int]:
        """Training samples of each class."""
        return long_tailed_counts(10, self.largest_class, self.imbalance)

    @property
    def official(self) -> OfficialFiles:
        """Official files, and the archive that brings them."""
        files = tuple(f"{part}_{kind}.bin" for part in ("train", "test") for kind in ("X", "y"))
        if self.unlabelled:
            files += ("unlabeled_X.bin",)
        return OfficialFiles("STL-10", Path(self.path), {"stl10_binary.tar.gz": files})

    # cached_property writes to __dict__ directly, so it works on a frozen dataclass.
    @cached_property
    def _official_train(self) -> tuple[Images, Tensor]:
        return self._read("train")

    def _read(self, part: str) -> tuple[Images, Tensor]:
        folder = Path(self.path)
        raw = {kind: folder / f"{part}_{kind}.bin" for kind in ("X", "y")}
        for path in raw.values():
            if not path.is_file():
                raise ValueError(f"{path}: must be a file of STL-10's binary version, there is none")
        pixels, labels = (np.fromfile(path, dtype=np.uint8) for path in raw.values())
        if len(pixels) != len(labels) * 3 * SIDE * SIDE or len(labels) == 0:
            raise ValueError(f"{raw['X']}: must hold 96 x 96 x 3 bytes for each of {len(labels)} labels, "
                             f"got {len(pixels)} bytes")  # fmt: skip
        if labels.min() < 1 or labels.max() > 10:
            raise ValueError(f"{raw['y']}: labels must lie in 1 to 10, got {labels.min()} to {labels.max()}")
        # Official labels begin at 1.
        return _images(pixels), torch.from_numpy(labels.astype(np.int64)) - 1

    def _unlabelled(self) -> Split:
        """Draw ``unlabelled`` of the images without labels by the seed; every label is -1."""
        path = Path(self.path) / "unlabeled_X.bin"
        if not path.is_file():
            raise ValueError(f"{path}: must be a file of STL-10's binary version, there is none")
        held, rest = divmod(path.stat().st_size, 3 * SIDE * SIDE)
        if rest or held < self.unlabelled:
            raise ValueError(f"{path}: must hold 96 x 96 x 3 bytes for each of at least {self.unlabelled} images, "
                             f"got {path.stat().st_size} bytes")  # fmt: skip
        drawn = torch.randperm(held, generator=torch.Generator().manual_seed(self.seed))[: self.unlabelled]
        # Mapped: the file has 2.8 GB, of which a small share may be drawn. Sorted: it is read from front to back.
        pixels = np.memmap(path, dtype=np.uint8, mode="r").reshape(held, 3 * SIDE * SIDE)
        return Split(_images(pixels[drawn.sort().values.numpy()]), torch.full((self.unlabelled,), -1))

    @cached_property
    def _index(self) -> list[Tensor]:
        labels = self._official_train[1]
        requested = [count + self.feedback + self.select for count in self.train_sizes]
        check_held(self.path, self.class_names, held_by_class(labels, self.class_names), requested,
                   "train, feedback and select")  # fmt: skip
        sizes = [self.train_sizes, [self.feedback] * 10, [self.select] * 10]
        return split_by_class(labels, sizes, torch.Generator().manual_seed(self.seed))

    def _part(self, part: str) -> Split:
        if part == "test":
            return Split(*self._read("test"))
        return split_of(*self._official_train, self._index[PARTS.index(part)])

    def load(self) -> SweepData:
        """Load train, feedback and select."""
        parts: dict[str, Callable[[], Split]] = {p: partial(self._part, p) for p in PARTS}
        if self.unlabelled:
            parts["unlabelled"] = self._unlabelled
        return sweep_data(self.name, self.class_names, parts)

    def load_test(self) -> Split:
        """Load the test split, kept apart from the data that a sweep sees."""
        return self._part("test")


def _images(pixels: NDArray[np.uint8]) -> Images:
    """Images from bytes of the official files."""
    # Stored by channel and column, where torch has rows first.
    images = torch.from_numpy(pixels.reshape(-1, 3, SIDE, SIDE)).transpose(2, 3).contiguous()
    return Images(images, mean=MEAN, std=STD)
