"""Heads that several baselines fit alike: equal samples, weights and decays are fitted once in a process.

Under cross-fitting a head of the training samples is the same without every fold, and several baselines begin with the
same path of heads. Equal input gives equal heads, so that nothing depends on who fitted them.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from selmix.baselines.head_path import FittedHead

_NUMBERS_KEPT = 2**24
"""Bound on the numbers of all heads that are kept, 128 MB in float64."""


class SharedFits:
    """Paths of heads by the content of what they were fitted on, the least recently used given up first.

    Attributes:
        saved_s: seconds that the paths took which were not fitted again: whoever uses one would have taken them alone.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, tuple[list[FittedHead], float]] = OrderedDict()
        self.saved_s = 0.0

    def path(
        self, fit: Callable[[], Iterable[FittedHead]], tensors: Sequence[Tensor], settings: Sequence[float]
    ) -> list[FittedHead]:
        """Heads of a path, fitted where they are not at hand.

        Args:
            fit: function that fits them.
            tensors: all samples, labels and weights that they depend on.
            settings: all numbers that they depend on.
        """
        key = _digest(tensors, settings)
        known = self._kept.get(key)
        if known is not None:
            self._kept.move_to_end(key)
            self.saved_s += known[1]
            return known[0]
        started = time.perf_counter()
        heads = list(fit())
        self._kept[key] = heads, time.perf_counter() - started
        while sum(_numbers(kept) for kept, _ in self._kept.values()) > _NUMBERS_KEPT:
            self._kept.popitem(last=False)
        return heads


SHARED_FITS = SharedFits()
"""Paths of this process."""


def _numbers(heads: Sequence[FittedHead]) -> int:
    return sum(head.weight.numel() + head.bias.numel() for head in heads)


def _digest(tensors: Sequence[Tensor], settings: Sequence[float]) -> bytes:
    # Another number of threads, or another device, gives other bits.
    digest = hashlib.sha256(repr((list(settings), torch.get_num_threads())).encode())
    for tensor in tensors:
        digest.update(repr((tensor.shape, tensor.dtype, tensor.device)).encode())
        # By bytes, since numpy does not know every dtype; without a copy of what lies on the CPU.
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.digest()
