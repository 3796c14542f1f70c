"""scikit-learn's digits, 1,797 real 8 x 8 scans, made long-tailed. The only import of scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from selmix.data.longtail import long_tailed_counts, split_by_class
from selmix.data.splits import Split, SweepData
from selmix.groups import strata_of

INK = ("faint", "bold")
NOISE = 0.3  # standard deviation of the noisy group's pixels, which lie in [0, 1]
# Written down, so that the sizes of a sweep file are checked without importing scikit-learn.
SAMPLES_OF_CLASS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)


@dataclass(frozen=True)
class DigitsConfig:
    """Sizes of the splits, and group attributes.

    Attributes:
        imbalance: training samples of the largest over those of the smallest class.
        largest_class: training samples of class 0.
        feedback: samples per class.
        select: samples per class.
        test: samples per class.
        seed: of the split.
        unlabelled: samples per class without labels, for the partner samples of pairs and for pre-training.
        noisy_share: share of each class's training samples that belong to the group ``noisy``, whose scans carry pixel
            noise; half of the other splits belong to it. 0: no such groups.
        groups: ``ink``: a scan with less ink than the median of its class is ``faint``, one with more ``bold``, half
            of a class each; ``""``: no such groups.
        minority: with ``groups``, share of a class's training samples in the smaller group: ``faint`` in the even
            classes and ``bold`` in the odd ones, so that ink is related to the class in train only. The other splits
            have half of each group.
    Raises:
        ValueError: a size out of range, or more samples than a class holds.
    """

    imbalance: float = 20.0
    largest_class: int = 80
    feedback: int = 20
    select: int = 24
    test: int = 50
    seed: int = 0
    unlabelled: int = 0
    noisy_share: float = 0.0
    groups: str = ""
    minority: float = 0.1

    name: ClassVar[str] = "digits"
    unlabelled_key: ClassVar[str] = "unlabelled"
    class_names: ClassVar[tuple[str, ...]] = tuple(str(k) for k in range(10))
    input_shape: ClassVar[tuple[int, ...]] = (1, 8, 8)

    def __post_init__(self) -> None:
        problems = []
        # ``not ... >=`` and not ``<``, so that NaN is refused too.
        if not self.imbalance >= 1:
            problems.append(f"imbalance: must be >= 1, got {self.imbalance}")
        if not 0 <= self.noisy_share < 1:
            problems.append(f"noisy_share: must lie in [0, 1), got {self.noisy_share}")
        if self.groups not in ("", "ink"):
            problems.append(f"groups: must be ink or left out, got {self.groups!r}")
        if self.groups and self.noisy_share:
            problems.append("groups: cannot stand beside noisy_share; leave one of them out")
        if not 0 < self.minority <= 0.5:
            problems.append(f"minority: must lie in (0, 0.5], got {self.minority}")
        if self.unlabelled < 0:
            problems.append(f"unlabelled: must be >= 0 samples per class, got {self.unlabelled}")
        if self.feedback < 0:
            problems.append(f"feedback: must be >= 0 samples per class, got {self.feedback}")
        problems += [
            f"{key}: must be >= 1 sample per class, got {getattr(self, key)}"
            for key in ("largest_class", "select", "test")
            if getattr(self, key) < 1
        ]
        # Counts can be computed from sizes in range only: an imbalance of 0, for one, divides by zero.
        if not problems:
            for k, (held, requested) in enumerate(zip(SAMPLES_OF_CLASS, self._requested(), strict=True)):
                if requested > held:
                    problems.append(f"class {k} holds {held} samples, the splits ask for {requested}")
        # A class may hold enough while one of its groups does not.
        if not problems and self.groups:
            for cell, requested in enumerate(map(sum, zip(*self._cell_sizes(), strict=True))):
                held = _half(SAMPLES_OF_CLASS[cell // 2], cell % 2)
                if requested > held:
                    name = f"class {cell // 2} x {INK[cell % 2]}"
                    problems.append(f"{name} holds {held} samples, the splits ask for {requested}")
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names ``clear`` and ``noisy``, or ``faint`` and ``bold``; empty without groups."""
        if self.groups:
            return INK
        return ("clear", "noisy") if self.noisy_share else ()

    @property
    def train_sizes(self) -> list[int]:
        """Training samples of each class."""
        return long_tailed_counts(10, self.largest_class, self.imbalance)

    def _requested(self) -> list[int]:
        """Samples of each class in all splits together."""
        held = self.feedback + self.select + self.test + self.unlabelled
        return [count + held for count in self.train_sizes]

    def _cell_sizes(self) -> list[list[int]]:
        """Samples of each (class, group) cell in train, feedback, select, test and unlabelled."""
        train = []
        for k, count in enumerate(self.train_sizes):
            # One at least, so that train has the group, but never more than half: a class of one sample lacks it.
            few = min(max(1, round(self.minority * count)), count // 2)
            train += [few, count - few] if k % 2 == 0 else [count - few, few]
        held = (self.feedback, self.select, self.test, self.unlabelled)
        return [train, *([_half(count, a) for _ in range(10) for a in range(2)] for count in held)]

    def load(self) -> SweepData:
        """Load train, feedback and select."""
        train, feedback, select, test, unlabelled = self._splits()
        # Of test only the digest is handed on.
        digests = {"train": train, "feedback": feedback, "select": select, "test": test}
        if self.unlabelled:
            digests["unlabelled"] = unlabelled
        return SweepData(
            self.name,
            self.class_names,
            train,
            feedback,
            select,
            {key: s.digest() for key, s in digests.items()},
            self.group_names,
            unlabelled if self.unlabelled else None,
        )

    def load_test(self) -> Split:
        """Load the test split, kept apart from the data that a sweep sees."""
        return self._splits()[3]

    def _splits(self) -> list[Split]:
        """Load train, feedback, select, test and unlabelled."""
        table = torch.from_numpy(_table())
        # Ink is stored as 0 to 16.
        whole = Split(table[:, :-1].float().view(-1, 1, 8, 8) / 16.0, table[:, -1].long())
        # All splits come of one call, so that no sample lies in two of them.
        if self.groups:
            groups = _ink_groups(whole)
            cells = strata_of(whole.labels, groups, 2)
            whole = Split(whole.inputs, whole.labels, groups)
            generator = torch.Generator().manual_seed(self.seed)
            return [whole.take(index) for index in split_by_class(cells, self._cell_sizes(), generator)]
        held = (self.feedback, self.select, self.test, self.unlabelled)
        sizes = [self.train_sizes, *([count] * 10 for count in held)]
        parts = split_by_class(whole.labels, sizes, torch.Generator().manual_seed(self.seed))
        splits = [whole.take(index) for index in parts]
        if self.noisy_share:
            shares = (self.noisy_share, 0.5, 0.5, 0.5, 0.5)
            # A seed for each split, so that they do not share their noise.
            splits = [_with_noise(split, share, self.seed + k) for k, (split, share) in
                      enumerate(zip(splits, shares, strict=True))]  # fmt: skip
        return splits


def _table() -> NDArray[np.float64]:
    """Ink of the 64 pixels and the label of each scan, shape (1797, 65)."""
    package = find_spec("sklearn")
    for folder in (package.submodule_search_locations if package is not None else None) or ():
        # The file itself, where it lies as in every version so far: importing scikit-learn takes a second.
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return np.column_stack([images, labels])


def _half(count: int, group: int) -> int:
    """Number of ``count`` scans that are faint (0) or bold (1): half of them, the odd one bold."""
    return count // 2 if group == 0 else count - count // 2


def _ink_groups(whole: Split) -> torch.Tensor:
    """Group of each scan, shape (n,): 0 for the half of its class with the least ink; equal ink in their order."""
    groups = torch.ones_like(whole.labels)
    ink = whole.whole().double().sum(dim=(1, 2, 3))
    for k in range(10):
        members = torch.nonzero(whole.labels == k).flatten()
        order = members[torch.argsort(ink[members], stable=True)]
        groups[order[: _half(len(members), 0)]] = 0
    return groups


def _with_noise(split: Split, share: float, seed: int) -> Split:
    """Make the first samples of each class the noisy group; at least one of a class with two."""
    groups = torch.zeros_like(split.labels)
    for k in range(10):
        members = torch.nonzero(split.labels == k).flatten()
        count = min(max(1, round(share * len(members))), len(members) - 1)
        # split_by_class has shuffled each class, so the first ones are a random choice.
        groups[members[:count]] = 1
    inputs = split.whole()
    noise = NOISE * torch.randn(inputs.shape, generator=torch.Generator().manual_seed(seed))
    noisy = (inputs + noise).clamp(0.0, 1.0)
    return Split(torch.where(groups.view(-1, 1, 1, 1) == 1, noisy, inputs), split.labels, groups)
