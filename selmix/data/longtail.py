"""Long-tailed class counts and disjoint splits by class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def long_tailed_counts(num_classes: int, largest: int, imbalance: float) -> list[int]:
    """Class counts n_k = max(1, round(n_max r^(-k / (K - 1)))), falling with the class index.

    Args:
        num_classes: K.
        largest: n_max, samples of class 0.
        imbalance: r = n_max / n_min >= 1.
    """
    # K - 1 would divide by zero.
    if num_classes == 1:
        return [largest]
    return [max(1, round(largest * imbalance ** (-k / (num_classes - 1)))) for k in range(num_classes)]


def split_by_class(
    labels: Tensor, sizes: Sequence[Sequence[int]], generator: torch.Generator
) -> list[Tensor]:
    """Draw disjoint random subsets with given class counts.

    Args:
        labels: shape (n,).
        sizes: for each subset the number of samples of each class.
        generator: of the draw, on the CPU.
    Returns:
        For each subset its sample indices, class by class, int64.
    Raises:
        ValueError: a class holds fewer samples than the subsets need; every such class is named.
    """
    # ``minlength``: a class without a sample at the end must count as 0.
    held = torch.bincount(labels, minlength=len(sizes[0])).tolist()
    requested = [sum(size[k] for size in sizes) for k in range(len(sizes[0]))]
    short = [
        f"class {k} holds {held[k]} samples, the splits ask for {requested[k]}"
        for k in range(len(requested))
        if requested[k] > held[k]
    ]
    if short:
        raise ValueError("\n".join(short))
    parts: list[list[Tensor]] = [[] for _ in sizes]
    for k in range(len(requested)):
        members = torch.nonzero(labels == k).flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        # Consecutive slices of one permutation cannot overlap.
        start = 0
        for part, size in zip(parts, sizes, strict=True):
            part.append(members[start : start + size[k]])
            start += size[k]
    return [torch.cat(part) for part in parts]
