"""The four parts of the data, three of which a sweep may see.

The test split is no part of :class:`SweepData`: nothing that trains, ranks or shows ever holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from selmix.data.images import Inputs, batch_of
from selmix.groups import strata_of
from selmix.weights import bytes_digest, tensor_digest


@dataclass(frozen=True)
class Split:
    """Labelled samples.

    Attributes:
        inputs: shape (n, ...), float32, or images that become such a tensor.
        labels: shape (n,), int64; -1 where a label is unknown.
        groups: shape (n,), int64; None where there is no group attribute.
    Raises:
        ValueError: the lengths differ.
    """

    inputs: Inputs
    labels: Tensor
    groups: Tensor | None = None

    def __post_init__(self) -> None:
        if self.labels.shape != (len(self.inputs),):
            raise ValueError(
                f"a split must have one label per sample, got {len(self.inputs)} inputs and labels of shape "
                f"{tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        groups = None if self.groups is None else self.groups.to(device)
        return Split(self.inputs.to(device), self.labels.to(device), groups)

    def take(self, index: Tensor) -> Split:
        """Select the samples at ``index``, shape (m,), int64 or a mask of shape (n,)."""
        groups = None if self.groups is None else self.groups[index]
        return Split(self.inputs[index], self.labels[index], groups)

    def batch(self, index: Tensor) -> Tensor:
        """Load inputs at ``index``, shape (m,), as a float tensor on the split's device."""
        return batch_of(self.inputs, index)

    def whole(self) -> Tensor:
        """Load all inputs as one float tensor, shape (n, ...)."""
        return self.batch(torch.arange(len(self)))

    def counts(self, num_classes: int) -> Tensor:
        """Count the samples of each class, shape (K,), int64."""
        return torch.bincount(self.labels, minlength=num_classes)

    def digest(self) -> str:
        """Digest ``sha256:...`` of the content."""
        tags = (self.labels,) if self.groups is None else (self.labels, self.groups)
        if isinstance(self.inputs, Tensor):
            return tensor_digest(self.inputs, *tags)
        # Images digest themselves, as their files are never all in memory.
        return bytes_digest(f"{self.inputs.digest()} {tensor_digest(*tags)}".encode())


@dataclass(frozen=True)
class SweepData:
    """Data that a sweep may see: train, feedback and select.

    Attributes:
        name: of the data set.
        class_names: K texts, in the order of the labels.
        train: samples to train on.
        feedback: samples that gain and multipliers are estimated on.
        select: samples that rounds and trials are ranked on.
        digests: content digest of each split, ``test`` too.
        group_names: A texts; empty where there is no group attribute.
        unlabelled: samples whose labels (-1: unknown) are read only by an ablation that requests them, or None.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    feedback: Split
    select: Split
    digests: Mapping[str, str]
    group_names: tuple[str, ...] = ()
    unlabelled: Split | None = None

    @property
    def num_groups(self) -> int:
        return len(self.group_names)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.train.inputs.shape[1:])

    @property
    def train_counts(self) -> Tensor:
        """Training samples of each class, shape (K,), int64."""
        return self.train.counts(self.num_classes)

    def missing_classes(self, split: str) -> list[str]:
        """Names of the classes without a sample in ``train``, ``feedback`` or ``select``."""
        part: Split = getattr(self, split)
        counts = part.counts(self.num_classes).tolist()
        return [name for name, count in zip(self.class_names, counts, strict=True) if count == 0]

    def missing_cells(self, split: str) -> list[str]:
        """``class x group`` of the cells without a sample in a split; none without a group attribute."""
        part: Split = getattr(self, split)
        if part.groups is None:
            return []
        strata = strata_of(part.labels, part.groups, self.num_groups)
        counts = torch.bincount(strata, minlength=self.num_classes * self.num_groups).tolist()
        # In the order of the strata, class * A + group.
        names = [f"{label} x {group}" for label in self.class_names for group in self.group_names]
        return [name for name, count in zip(names, counts, strict=True) if count == 0]

    def to(self, device: torch.device) -> SweepData:
        return replace(
            self,
            train=self.train.to(device),
            feedback=self.feedback.to(device),
            select=self.select.to(device),
            unlabelled=None if self.unlabelled is None else self.unlabelled.to(device),
        )


def join(first: Split, second: Split) -> Split:
    """Join the samples of two splits, in order.

    Raises:
        ValueError: one has a tensor and the other images, or images of two kinds.
    """
    labels = torch.cat([first.labels, second.labels])
    # Groups of one of them alone would not fit the labels of both.
    groups = None
    if first.groups is not None and second.groups is not None:
        groups = torch.cat([first.groups, second.groups])
    if isinstance(first.inputs, Tensor) and isinstance(second.inputs, Tensor):
        return Split(torch.cat([first.inputs, second.inputs]), labels, groups)
    if isinstance(first.inputs, Tensor) or isinstance(second.inputs, Tensor):
        raise ValueError("only splits of one kind can be joined, got a tensor and images")
    return Split(first.inputs.joined(second.inputs), labels, groups)
