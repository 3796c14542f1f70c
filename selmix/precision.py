"""How a network is computed: the precision of its products, and the memory format of images.

The weights stay in float32 whatever is chosen here: ``bfloat16`` is torch's autocast around the forward pass, and what
comes out is made float32 again, so that losses, counts, prototypes and the gain never see it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PRECISIONS = ("float32", "bfloat16")
_IMAGE_DIMS = 4  # (n, C, H, W), and (out, in, h, w) of a convolution


@dataclass(frozen=True)
class Arithmetic:
    """Precision and memory format of a forward pass; as torch does it by itself where nothing is chosen.

    Attributes:
        precision: of PRECISIONS. channels_last: lay out 4-D inputs and weights with the channels last.
    """

    precision: str = "float32"
    channels_last: bool = False

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """What a forward pass runs under."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    def full(self, output: Tensor) -> Tensor:
        """An output of the network in the precision that the method goes on in."""
        return output if self.precision == "float32" else output.float()

    def laid_out(self, inputs: Tensor) -> Tensor:
        """Inputs in the memory format; the same values."""
        if not self.channels_last or inputs.ndim != _IMAGE_DIMS:
            return inputs
        return inputs.contiguous(memory_format=torch.channels_last)

    def lay_out_(self, model: nn.Module) -> None:
        """Bring the 4-D weights of a model into the memory format, in place; the parameters stay the same objects."""
        if self.channels_last:
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.data = self.laid_out(tensor.data)
