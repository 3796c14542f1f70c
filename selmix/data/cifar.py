"""CIFAR-10 and CIFAR-100, made long-tailed, from their official files (binary or Python version).

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from selmix.data.archives import OfficialFiles
from selmix.data.images import Images
from selmix.data.longtail import long_tailed_counts, split_by_class
from selmix.data.sizes import check_held, held_by_class, size_problems, split_of, sweep_data
from selmix.data.splits import Split, SweepData

PARTS = ("train", "feedback", "select", "test", "unlabelled")
_PIXELS = 3 * 32 * 32
CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Of the official training images, per channel.
MEAN = {10: (0.4914, 0.4822, 0.4465), 100: (0.5071, 0.4865, 0.4409)}
STD = {10: (0.2470, 0.2435, 0.2616), 100: (0.2673, 0.2564, 0.2762)}


@dataclass(frozen=True)
class CifarConfig:
    """Folder of the official files, and sizes of the splits; the official test images are the test split.

    Attributes:
        path: folder of the extracted archive, with ``data_batch_1.bin`` or ``data_batch_1`` and so on.
        classes: 10 or 100.
        imbalance: rho_l, labelled training samples of the largest over those of the smallest class.
        largest_class: N1, training samples of class 0.
        feedback: samples per class, taken from the official training images.
        select: samples per class, taken from the official training images.
        seed: of the split.
        unlabelled_largest: M1, unlabelled samples of the largest class, or 0.
        unlabelled_imbalance: rho_u, as rho_l for the unlabelled samples; below 1 the order of the classes is reversed,
            so that the last class is the largest.
    Raises:
        ValueError: a size out of range. Reading raises ValueError for files that are missing or damaged.
    """

    path: str
    classes: int = 10
    imbalance: float = 100.0
    largest_class: int = 1500
    feedback: int = 100
    select: int = 100
    seed: int = 0
    unlabelled_largest: int = 0
    unlabelled_imbalance: float = 100.0

    name: ClassVar[str] = "cifar"
    unlabelled_key: ClassVar[str] = "unlabelled_largest"
    input_shape: ClassVar[tuple[int, ...]] = (3, 32, 32)

    def __post_init__(self) -> None:
        sizes = {"imbalance": (self.imbalance, 1), "largest_class": (self.largest_class, 1),
                 "feedback": (self.feedback, 0), "select": (self.select, 1),
                 "unlabelled_largest": (self.unlabelled_largest, 0),
                 "unlabelled_imbalance": (self.unlabelled_imbalance, 1e-6)}  # fmt: skip
        problems = size_problems(sizes)
        if self.classes not in (10, 100):
            problems.append(f"classes: must be 10 or 100, got {self.classes}")
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def class_names(self) -> tuple[str, ...]:
        # The batches hold numbers only; the names of the 100 fine classes are in a file that is not read.
        return CIFAR10_NAMES if self.classes == 10 else tuple(f"fine{k:02d}" for k in range(100))

    @property
    def train_sizes(self) -> list[int]:
        """Training samples of each class."""
        return long_tailed_counts(self.classes, self.largest_class, self.imbalance)

    @property
    def official(self) -> OfficialFiles:
        """Official files, and the archives that bring them."""
        names = (*self._train_names, self._test_name)
        archives = {
            f"cifar-{self.classes}-binary.tar.gz": tuple(f"{name}.bin" for name in names),
            f"cifar-{self.classes}-python.tar.gz": names,
        }
        return OfficialFiles(f"CIFAR-{self.classes}", Path(self.path), archives)

    @property
    def _train_names(self) -> list[str]:
        return [f"data_batch_{k}" for k in range(1, 6)] if self.classes == 10 else ["train"]

    @property
    def _test_name(self) -> str:
        return "test_batch" if self.classes == 10 else "test"

    # cached_property writes to __dict__ directly, so it works on a frozen dataclass.
    @cached_property
    def _official_train(self) -> tuple[Images, Tensor]:
        return self._read(self._train_names)

    def _read(self, names: list[str]) -> tuple[Images, Tensor]:
        read = [_read_batch(Path(self.path), name, self.classes) for name in names]
        pixels, labels = torch.cat([p for p, _ in read]), torch.cat([y for _, y in read])
        # Any byte, and any number of a pickle, can be read as a label; here the folder of a wrong one is still known.
        low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
        if low < 0 or high >= self.classes:
            raise ValueError(f"{self.path}: labels must lie in 0 to {self.classes - 1}, got {low} to {high}")
        return Images(pixels, mean=MEAN[self.classes], std=STD[self.classes]), labels

    @cached_property
    def _index(self) -> list[Tensor]:
        labels = self._official_train[1]
        feedback, select = ([count] * self.classes for count in (self.feedback, self.select))
        unlabelled = [0] * self.classes
        if self.unlabelled_largest:
            # long_tailed_counts only falls, so a rising order is computed falling and then reversed.
            falling = max(self.unlabelled_imbalance, 1.0 / self.unlabelled_imbalance)
            unlabelled = long_tailed_counts(self.classes, self.unlabelled_largest, falling)
            if self.unlabelled_imbalance < 1.0:
                unlabelled.reverse()
        # In the order of PARTS; none for test, which has official images of its own.
        sizes = [self.train_sizes, feedback, select, [0] * self.classes, unlabelled]
        requested = [sum(counts) for counts in zip(*sizes, strict=True)]
        splits = "train, feedback and select" + (" and unlabelled" if self.unlabelled_largest else "")
        check_held(self.path, self.class_names, held_by_class(labels, self.class_names), requested, splits)
        return split_by_class(labels, sizes, torch.Generator().manual_seed(self.seed))

    def _part(self, part: str) -> Split:
        if part == "test":
            images, labels = self._read([self._test_name])
            return Split(images, labels)
        return split_of(*self._official_train, self._index[PARTS.index(part)])

    def load(self) -> SweepData:
        """Load train, feedback and select."""
        # ``unlabelled`` is the last of PARTS and left out where there is none.
        # ``p=p``: a closure would see the last part.
        parts = {p: lambda p=p: self._part(p) for p in PARTS[: 4 + bool(self.unlabelled_largest)]}
        return sweep_data(self.name, self.class_names, parts)

    def load_test(self) -> Split:
        """Load the test split, kept apart from the data that a sweep sees."""
        return self._part("test")


def _read_batch(folder: Path, name: str, classes: int) -> tuple[Tensor, Tensor]:
    """Pixels, shape (n, 3, 32, 32), uint8, and labels, shape (n,), of one official file."""
    binary, plain = folder / f"{name}.bin", folder / name
    if binary.is_file():
        return _read_binary(binary, 1 if classes == 10 else 2)
    if plain.is_file():
        return _read_python(plain, "labels" if classes == 10 else "fine_labels")
    raise ValueError(
        f"{folder}: must hold {name}.bin or {name} of CIFAR-{classes}, there is neither; `selmix data prepare FILE` "
        "extracts the official archive there"
    )


def _read_binary(path: Path, label_bytes: int) -> tuple[Tensor, Tensor]:
    raw = np.fromfile(path, dtype=np.uint8)
    row = label_bytes + _PIXELS
    if len(raw) == 0 or len(raw) % row:
        raise ValueError(f"{path}: must be rows of {row} bytes, got {len(raw)} bytes")
    rows = torch.from_numpy(raw.reshape(-1, row))
    # CIFAR-100 has the coarse label first and the fine one, which is meant here, after it. The copy lets go of the
    # rows with their label bytes.
    return rows[:, label_bytes:].reshape(-1, 3, 32, 32).clone(), rows[:, label_bytes - 1].long()


class _ArraysOnly(pickle.Unpickler):
    """Unpickler of the official Python version: arrays, lists, numbers and texts, and no other code."""

    # A pickle may name any function to be called. numpy 2 renamed numpy.core to numpy._core.
    ALLOWED = frozenset({
        ("numpy", "dtype"), ("numpy", "ndarray"), ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"), ("_codecs", "encode"),
    })  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def _read_python(path: Path, label_key: str) -> tuple[Tensor, Tensor]:
    try:
        # Python 2 wrote the official files; latin1 keeps every byte of its strings.
        stored = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        pixels = torch.from_numpy(np.ascontiguousarray(stored["data"])).reshape(-1, 3, 32, 32)
        labels = torch.tensor(stored[label_key]).long()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(
            f"{path}: must be an official file of CIFAR's Python version: {type(error).__name__}: {error}"
        ) from error
    if pixels.dtype != torch.uint8 or len(pixels) != len(labels):
        raise ValueError(
            f"{path}: must hold one label per image of bytes, got {len(labels)} labels and {len(pixels)} images of "
            f"{pixels.dtype}"
        )
    return pixels, labels
