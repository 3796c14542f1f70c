"""Folds of labelled samples by their content: whoever splits the same samples, in any order, gets the same folds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from selmix.data.images import Inputs
from selmix.data.splits import Split

FOLDS = 5


def sample_digests(inputs: Inputs) -> list[bytes]:
    """Digest of the content of every sample: of its numbers, its pixels, or its encoded bytes."""
    if isinstance(inputs, Tensor):
        rows = inputs.detach().cpu().contiguous().flatten(1)
    elif inputs.pixels is not None:
        rows = inputs.pixels.cpu().contiguous().flatten(1)
    else:
        return inputs.content_digests()
    return [hashlib.sha256(row.numpy().tobytes()).digest() for row in rows]


def content_folds(parts: Sequence[Split], folds: int = FOLDS) -> list[Tensor]:
    """Stratified folds of the samples of several splits; copies of a sample lie in one fold, also across splits.

    The distinct samples of each class (with groups, of each (class, group) cell), in order of their digests, go to the
    folds in turn.

    Args:
        parts: the splits.
        folds: F, at least 2.
    Returns:
        Fold of each sample, in [0, F), one tensor of shape (n,) per split, on the CPU.
    Raises:
        ValueError: a class with fewer than 2 F samples, so that a fold would have hardly one of it.
    """
    labels = torch.cat([part.labels.cpu() for part in parts])
    counts = torch.bincount(labels)
    few = torch.nonzero((counts > 0) & (counts < 2 * folds)).flatten().tolist()
    if few:
        shown = ", ".join(str(k) for k in few[:5]) + (", ..." if len(few) > 5 else "")
        raise ValueError(
            f"{folds} folds need at least {2 * folds} samples of every class, class {shown} has fewer (the least: "
            f"{int(counts[few].min())}); give feedback and select more samples"
        )
    strata = labels
    if all(part.groups is not None for part in parts):
        groups = torch.cat([part.groups.cpu() for part in parts if part.groups is not None])
        strata = labels * (int(groups.max()) + 1) + groups
    digests = [digest for part in parts for digest in sample_digests(part.inputs)]
    fold_of: dict[bytes, int] = {}
    # Cells begin at different folds, by which folds of many small cells are of one size.
    place = 0
    for _, digest in sorted(zip(strata.tolist(), digests, strict=True)):
        if digest not in fold_of:
            fold_of[digest] = place % folds
            place += 1
    found = torch.tensor([fold_of[digest] for digest in digests])
    return list(torch.split(found, [len(part) for part in parts]))


def most_folds(parts: Sequence[Split], folds: int = FOLDS) -> int:
    """The largest number of folds, at most ``folds``, that :func:`content_folds` takes; at least 2."""
    labels = torch.cat([part.labels.cpu() for part in parts])
    counts = torch.bincount(labels)
    return max(2, min(folds, int(counts[counts > 0].min()) // 2))
