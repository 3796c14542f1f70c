"""Pinned model as one module of tensors alone: normalisation, network and correction, ready to be exported."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from selmix.pinned import PinnedInputs

OUTPUTS = ("logits", "probabilities", "labels")
"""Outputs of a program, in their order."""


class PinnedProgram(nn.Module):
    """Inputs (n, ...), and groups (n,) where the correction is by group, to logits, probabilities and labels.

    Images come as floats from 0 to 1 at the model's size, channels first; they are normalised inside. Feature vectors
    come as they are.

    Args:
        pinned: the model; its parameters have no gradients from here on, so that ``.numpy()`` of an output works.
    Attributes:
        by_group: True if it takes a second input, the place of each sample's group.
    """

    white: Tensor
    mean: Tensor
    std: Tensor
    scale: Tensor
    bias: Tensor
    matrix: Tensor
    offset: Tensor
    group_offset: Tensor

    def __init__(self, pinned: PinnedInputs) -> None:
        super().__init__()
        self.network = pinned.model.requires_grad_(False)
        self.by_group = pinned.correction is not None and pinned.correction.group_offset is not None
        self.is_normalised = pinned.steps is not None
        self.is_corrected = pinned.correction is not None
        if pinned.steps is not None:
            # (raw - mean) / std of raw = input_range * x, in this order: what training saw, to the bit.
            self.register_buffer("white", torch.tensor(float(pinned.steps.input_range)))
            self.register_buffer("mean", torch.tensor(pinned.steps.mean).view(-1, 1, 1))
            self.register_buffer("std", torch.tensor(pinned.steps.std).view(-1, 1, 1))
        if pinned.correction is not None:
            for name in ("scale", "bias", "matrix", "offset"):
                self.register_buffer(name, getattr(pinned.correction, name).float())
            if pinned.correction.group_offset is not None:
                self.register_buffer("group_offset", pinned.correction.group_offset.float())

    def forward(self, inputs: Tensor, group: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits as trained, shape (n, K); calibrated probabilities, shape (n, K); corrected labels, shape (n,)."""
        if self.is_normalised:
            inputs = (inputs * self.white - self.mean) / self.std
        logits = self.network(inputs)
        if not self.is_corrected:
            probabilities = torch.softmax(logits, dim=1)
            return logits, probabilities, probabilities.argmax(dim=1)
        probabilities = torch.softmax(logits * self.scale + self.bias, dim=1)
        scores = probabilities @ self.matrix + self.offset
        if self.by_group:
            if group is None:
                raise ValueError("this model's correction is by group: give the group of every sample")
            scores = scores + self.group_offset[group]
        return logits, probabilities, scores.argmax(dim=1)


def examples(pinned: PinnedInputs, sizes: tuple[int, ...] = (2, 1, 29)) -> Iterator[tuple[Tensor, ...]]:
    """Batches of a program's inputs, drawn at random, always the same ones.

    Args:
        pinned: the model.
        sizes: samples of each batch.
    Yields:
        Inputs, and groups where the correction is by group.
    """
    generator = torch.Generator().manual_seed(0)
    program_groups = 0 if pinned.correction is None else pinned.correction.num_groups
    for size in sizes:
        shape = (size, *pinned.input_shape)
        drawn = torch.rand if pinned.steps is not None else torch.randn
        inputs: Tensor = drawn(shape, generator=generator)
        if program_groups:
            yield inputs, torch.randint(program_groups, (size,), generator=generator)
        else:
            yield (inputs,)
