"""Weak and strong augmentation of a batch, each sample by draws of its own from a passed generator.

Weak: a shift by up to an eighth of the side, and for colour images a horizontal flip. Strong: weak, then contrast and
brightness, and a square of a third of the side blotted out. Feature vectors are left as they are by weak augmentation;
strong augmentation adds a tenth of their deviation as noise and drops a fifth of their entries.
Source of the pair: Sohn et al., "FixMatch", NeurIPS 2020 (whose strong augmentation draws from more operations).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT, BLOT = 8, 3  # parts of the side
CONTRAST, BRIGHTNESS = 0.4, 0.2
NOISE, DROPPED = 0.1, 0.2


def weak(
    inputs: Tensor, generator: torch.Generator, whole: int | None = None, part: slice = slice(None)
) -> Tensor:
    """Inputs (n, C, H, W) shifted and, with three channels, flipped; inputs (n, d) as they are.

    Args:
        whole, part: where the inputs are some rows of a batch of ``whole``: they are changed as they would be in it.
    """
    if inputs.ndim != 4:
        return inputs
    count, channels, height, width = inputs.shape
    whole = count if whole is None else whole
    reach = max(1, min(height, width) // SHIFT)
    moves = torch.randint(0, 2 * reach + 1, (2, whole), generator=generator)[:, part]
    moves = moves.to(inputs.device, non_blocking=True)
    padded = F.pad(inputs, (reach,) * 4, mode="replicate")
    rows = moves[0].view(-1, 1) + torch.arange(height, device=inputs.device)
    columns = moves[1].view(-1, 1) + torch.arange(width, device=inputs.device)
    sample = torch.arange(count, device=inputs.device).view(-1, 1, 1)
    # Advanced indices around a slice put the channels last.
    shifted = padded[sample, :, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)
    if channels != 3:
        return shifted.contiguous()
    flipped = torch.rand(whole, generator=generator)[part] < 0.5
    flipped = flipped.to(inputs.device, non_blocking=True)
    return torch.where(flipped.view(-1, 1, 1, 1), shifted.flip(3), shifted)


def strong(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Inputs (n, C, H, W) or (n, d), changed so far that a class is still told by eye."""
    if inputs.ndim != 4:
        noise = torch.randn(inputs.shape, generator=generator).to(inputs)
        kept = (torch.rand(inputs.shape, generator=generator) >= DROPPED).to(inputs)
        return (inputs + NOISE * inputs.std() * noise) * kept
    moved = weak(inputs, generator)
    count, _, height, width = moved.shape
    draws = (2.0 * torch.rand(2, count, generator=generator) - 1.0).to(moved).view(2, count, 1, 1, 1)
    mean, deviation = moved.mean(dim=(1, 2, 3), keepdim=True), moved.std(dim=(1, 2, 3), keepdim=True)
    moved = mean + (1.0 + CONTRAST * draws[0]) * (moved - mean) + BRIGHTNESS * draws[1] * deviation
    sides = [max(1, side // BLOT) for side in (height, width)]
    starts = [
        torch.randint(0, side - blot + 1, (count, 1), generator=generator).to(moved.device)
        for side, blot in zip((height, width), sides, strict=True)
    ]
    rows, columns = (
        (torch.arange(side, device=moved.device) >= start)
        & (torch.arange(side, device=moved.device) < start + blot)
        for side, start, blot in zip((height, width), starts, sides, strict=True)
    )
    blotted = (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)
    return torch.where(blotted, mean, moved)
