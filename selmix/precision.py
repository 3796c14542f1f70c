"""Arithmetic of a network: the precision of its products and the memory format of images.

The weights stay in float32 under every setting: ``bfloat16`` is torch's autocast around the forward pass, whose output
is converted back to float32, so that losses, counts, prototypes and the gain are computed from float32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PRECISIONS = ("float32", "bfloat16")
# Of images, (n, C, H, W), and of the weights of a convolution, (out, in, h, w).
_IMAGE_DIMS = 4


@dataclass(frozen=True)
class Arithmetic:
    """Precision and memory format of a forward pass; the defaults are torch's own.

    Attributes:
        precision: one of PRECISIONS.
        channels_last: lay out 4-D inputs and weights with the channels last.
    """

    precision: str = "float32"
    channels_last: bool = False

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Context manager for a forward pass."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    def full(self, output: Tensor) -> Tensor:
        """Convert an output of the network to the precision that the method computes in."""
        # Untouched under float32: the outputs of a float64 model stay float64.
        return output if self.precision == "float32" else output.float()

    def laid_out(self, inputs: Tensor) -> Tensor:
        """Convert inputs to the memory format; the values stay the same."""
        if not self.channels_last or inputs.ndim != _IMAGE_DIMS:
            return inputs
        return inputs.contiguous(memory_format=torch.channels_last)

    def lay_out_(self, model: nn.Module) -> None:
        """Convert the 4-D weights of a model to the memory format, in place."""
        if self.channels_last:
            # Through .data: the parameters must stay the objects that an optimiser holds.
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.data = self.laid_out(tensor.data)
