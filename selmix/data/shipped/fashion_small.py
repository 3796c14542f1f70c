"""A long-tailed part of Fashion-MNIST that comes with the package, 10,481 real images in one Parquet file.

Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
2017, arXiv:1708.07747; MIT licence, beside the file. Made by :mod:`selmix.data.shipped.make_fashion_small`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from selmix.data.fashion_mnist import MEAN, SIDE, STD, FashionMnistConfig
from selmix.data.images import Images
from selmix.data.sizes import split_of, sweep_data
from selmix.data.splits import Split, SweepData

FILE = Path(__file__).with_name("fashion_small.parquet")
OFFICIAL = FashionMnistConfig(test=500)
"""The settings by which its images were taken from the official files."""

PARTS = ("train", "feedback", "select", "test")


@dataclass(frozen=True)
class FashionSmallConfig:
    """The part as it is: 1,000 to 10 training images a class, 100 feedback, 200 select and 500 test images of each.

    Raises:
        ValueError: reading it, if the file is missing or damaged.
    """

    name: ClassVar[str] = "fashion_small"
    input_shape: ClassVar[tuple[int, ...]] = (1, SIDE, SIDE)
    class_names: ClassVar[tuple[str, ...]] = FashionMnistConfig.class_names
    feedback: ClassVar[int] = OFFICIAL.feedback
    select: ClassVar[int] = OFFICIAL.select
    test: ClassVar[int] = OFFICIAL.test

    @property
    def train_sizes(self) -> list[int]:
        """Training samples of each class."""
        return OFFICIAL.train_sizes

    # cached_property writes to __dict__ directly, so it works on a frozen dataclass.
    @cached_property
    def _all(self) -> tuple[Images, Tensor, list[str]]:
        """Images, labels, shape (n,), int64, and the split of each."""
        # Imported here: whoever brings arrays of their own needs no pyarrow.
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(FILE, columns=["image", "label", "split"])
        except (OSError, pa.ArrowException) as error:
            raise ValueError(
                f"{FILE}: must be the file that comes with the package, got {error}; install the package again"
            ) from error
        pixels = np.frombuffer(b"".join(table["image"].to_pylist()), np.uint8).reshape(-1, 1, SIDE, SIDE)
        labels = torch.from_numpy(table["label"].to_numpy().astype(np.int64))
        return Images(torch.from_numpy(pixels.copy()), mean=MEAN, std=STD), labels, table["split"].to_pylist()

    def _part(self, part: str) -> Split:
        images, labels, splits = self._all
        index = torch.tensor([row for row, split in enumerate(splits) if split == part])
        return split_of(images, labels, index)

    def load(self) -> SweepData:
        """Load train, feedback and select."""
        return sweep_data(self.name, self.class_names, {part: partial(self._part, part) for part in PARTS})

    def load_test(self) -> Split:
        """Load the test split, kept apart from the data that a sweep sees."""
        return self._part("test")
