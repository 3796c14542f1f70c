"""K Gaussians of unequal spread with a long tail: a world whose optimum can be computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from selmix.data.longtail import long_tailed_counts
from selmix.data.splits import Split, SweepData

SPREADS = (0.5, 2.0)
SEPARATION = 2.0
# The place of a part seeds its stream: a new part goes last.
_PARTS = ("train", "feedback", "select", "test", "optimum", "unlabelled")


@dataclass(frozen=True)
class GaussiansConfig:
    """Sizes and shape of the world.

    Attributes:
        classes: K.
        dim: d.
        separation: radius of the sphere that the means lie on, in units of the mean spread.
        largest_class: training samples of class 0.
        imbalance: training samples of the largest over those of the smallest class.
        feedback: samples per class.
        select: samples per class.
        test: samples per class.
        seed: of the means, the order of the spreads, and the samples.
        unlabelled: samples per class without labels.
    Raises:
        ValueError: a size out of range.
    """

    classes: int = 6
    dim: int = 8
    separation: float = SEPARATION
    largest_class: int = 400
    imbalance: float = 20.0
    feedback: int = 100
    select: int = 100
    test: int = 2000
    seed: int = 0
    unlabelled: int = 0

    name: ClassVar[str] = "gaussians"
    unlabelled_key: ClassVar[str] = "unlabelled"

    def __post_init__(self) -> None:
        # ``not ... >=`` and not ``<``, so that NaN is refused too.
        problems = [
            f"{key}: must be >= {minimum}, got {getattr(self, key)}"
            for key, minimum in (("classes", 2), ("dim", 1), ("largest_class", 1), ("imbalance", 1), ("feedback", 0),
                               ("select", 1), ("test", 1), ("unlabelled", 0))
            if not getattr(self, key) >= minimum
        ]  # fmt: skip
        if not self.separation > 0:
            problems.append(f"separation: must be > 0, got {self.separation}")
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(f"gaussian{k}" for k in range(self.classes))

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.dim,)

    @property
    def train_sizes(self) -> list[int]:
        """Training samples of each class."""
        return long_tailed_counts(self.classes, self.largest_class, self.imbalance)

    def world(self) -> tuple[Tensor, Tensor]:
        """Means, shape (K, d), and spreads, shape (K,), float64; the classes have the spreads in random order."""
        generator = torch.Generator().manual_seed(self.seed)
        means = torch.randn(self.classes, self.dim, generator=generator, dtype=torch.float64)
        means = self.separation * means / means.norm(dim=1, keepdim=True)
        spreads = torch.linspace(*SPREADS, self.classes, dtype=torch.float64)
        return means, spreads[torch.randperm(self.classes, generator=generator)]

    def sample(self, part: str, sizes: list[int]) -> Split:
        """Draw samples of each class, from a stream of its own for each ``part``."""
        means, spreads = self.world()
        # One stream per part: the test split does not move when the size of another split changes. The factor keeps
        # the streams of neighbouring seeds apart.
        generator = torch.Generator().manual_seed(1_000_003 * (self.seed + 1) + _PARTS.index(part))
        labels = torch.repeat_interleave(torch.arange(self.classes), torch.tensor(sizes))
        noise = torch.randn(len(labels), self.dim, generator=generator, dtype=torch.float64)
        inputs = means[labels] + spreads[labels].unsqueeze(1) * noise
        return Split(inputs.float(), labels)

    def load(self) -> SweepData:
        """Load train, feedback and select."""
        train = self.sample("train", self.train_sizes)
        feedback = self.sample("feedback", [self.feedback] * self.classes)
        select = self.sample("select", [self.select] * self.classes)
        parts = {"train": train, "feedback": feedback, "select": select, "test": self.load_test()}
        unlabelled = None
        if self.unlabelled:
            unlabelled = parts["unlabelled"] = self.sample("unlabelled", [self.unlabelled] * self.classes)
        # Of test only the digest is handed on.
        digests = {key: split.digest() for key, split in parts.items()}
        return SweepData(self.name, self.class_names, train, feedback, select, digests, unlabelled=unlabelled)

    def load_test(self) -> Split:
        """Load the test split, kept apart from the data that a sweep sees."""
        return self.sample("test", [self.test] * self.classes)
