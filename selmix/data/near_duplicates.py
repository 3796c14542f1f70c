"""Images that look the same in two splits, such as one photograph in two sizes or formats: a perceptual hash of each.

The hash is that of Krawetz (dHash), in both directions: the signs of the differences between neighbours on a grid of
9 x 9 mean brightnesses. What the hashes find is compared by a grid twice as fine.

False alarms rise with how alike the images of a data set are (of one silhouette on black, say): hence a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from selmix.data.content import sample_digests
from selmix.data.images import Images
from selmix.data.wording import listed

_SIDE = 18
MAX_DISTANCE = 14
"""Bits of 144 that may differ: two unrelated images differ in half of them."""
MIN_CORRELATION = 0.99
"""Least correlation of the finer grids; it knows no brightness and no contrast."""
# Brightnesses from 0 to 1: an image of one colour has no differences to compare.
_MIN_DEVIATION = 0.004
_LUMA = (0.299, 0.587, 0.114)
_ROWS_AT_ONCE = 1024
_DECODERS = 4


def grids_of(images: Images) -> tuple[Tensor, list[str]]:
    """Decode all images, once, to grids of mean brightnesses.

    Args:
        images: n of them, in files or encoded.
    Returns:
        Grids, shape (n, 18, 18), NaN where an image cannot be decoded, and a line for each of these.
    """

    def grid(k: int) -> tuple[Tensor, str]:
        try:
            pixels = images.decoded(k)
        except ValueError as error:
            return torch.full((_SIDE, _SIDE), torch.nan), str(error)
        bright = pixels.float() / 255.0 if pixels.dtype == torch.uint8 else pixels
        # Brightness as JPEG knows it: it keeps less of the colours.
        weights = bright.new_tensor(_LUMA if len(bright) == 3 else [1.0 / len(bright)] * len(bright))
        luma = (bright * weights.view(-1, 1, 1)).sum(dim=0, keepdim=True)
        return F.adaptive_avg_pool2d(luma, _SIDE)[0], ""

    # Threads, as Pillow lets go of the interpreter while it decodes; ``map`` keeps the order.
    with ThreadPoolExecutor(_DECODERS) as pool:
        each = list(pool.map(grid, range(len(images))))
    grids = torch.stack([part for part, _ in each]) if each else torch.empty(0, _SIDE, _SIDE)
    return grids, [line for _, line in each if line]


def near_leaks(
    images: Mapping[str, Images], grids: Mapping[str, Tensor], name_of: Callable[[str, int], str]
) -> list[str]:
    """Images that look like one of another split, and are not equal to it byte for byte; one line a pair of splits.

    All images of one split are compared with all of another: 2 n m 468 operations. Images of nearly one colour are
    left out.

    Args:
        images: split -> images.
        grids: split -> their grids, as :func:`grids_of` makes them.
        name_of: words for a sample by split and place.
    """
    hashed = {part: _Hashed(each) for part, each in grids.items()}
    lines = []
    for first, second in combinations(grids, 2):
        found = []
        for a, b in hashed[first].like(hashed[second]):
            same = list(sample_digests(images[first][torch.tensor([a])])) == list(
                sample_digests(images[second][torch.tensor([b])])
            )
            if not same:
                found.append(f"{name_of(second, b)} ({second}) is like {name_of(first, a)} ({first})")
        if found:
            lines.append(
                f"images of {second} look like images of {first}: {listed(found, 'images', joint='; ')}"
            )
    return lines


class _Hashed:
    """Hashes of a split's images, as signs, and their grids at mean 0 and length 1."""

    def __init__(self, grids: Tensor) -> None:
        # NaN is below any deviation too.
        self.kept = torch.nonzero(grids.flatten(1).std(dim=1) >= _MIN_DEVIATION).flatten()
        kept = grids[self.kept]
        coarse = F.avg_pool2d(kept.unsqueeze(1), 2).squeeze(1)
        across, down = coarse[:, :, 1:] - coarse[:, :, :-1], coarse[:, 1:] - coarse[:, :-1]
        bits = torch.cat([across.flatten(1), down.flatten(1)], dim=1) > 0
        self.signs = bits.float() * 2 - 1
        self.grids = F.normalize(kept.flatten(1) - kept.flatten(1).mean(dim=1, keepdim=True), dim=1)

    def like(self, other: _Hashed) -> Iterator[tuple[int, int]]:
        """Places (here, there) of the images there that look like one here, each with the one most like it."""
        if not len(self.kept):
            return
        for start in range(0, len(other.kept), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            agreeing = other.signs[rows] @ self.signs.T
            distance = (self.signs.shape[1] - agreeing) / 2
            correlation = other.grids[rows] @ self.grids.T
            correlation[distance > MAX_DISTANCE] = -1.0
            best, place = correlation.max(dim=1)
            for k in torch.nonzero(best >= MIN_CORRELATION).flatten().tolist():
                yield int(self.kept[place[k]]), int(other.kept[start + k])
