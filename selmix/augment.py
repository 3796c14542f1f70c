"""Weak and strong augmentation of a batch, drawn for each sample from the caller's generator.

Weak augmentation shifts an image by up to an eighth of its side and flips colour images horizontally. Strong
augmentation is weak augmentation, then a change of contrast and brightness and a square of a third of the side blotted
out. Of feature vectors, weak augmentation changes nothing; strong augmentation adds noise of a tenth of their
deviation and drops a fifth of their entries.
Source: Sohn et al., "FixMatch", NeurIPS 2020 (whose strong augmentation draws from more operations).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Divisors of the side: a shift is at most 1/8 of it, a blot 1/3.
SHIFT, BLOT = 8, 3
CONTRAST, BRIGHTNESS = 0.4, 0.2
NOISE, DROPPED = 0.1, 0.2


def weak(
    inputs: Tensor, generator: torch.Generator, whole: int | None = None, part: slice = slice(None)
) -> Tensor:
    """Shift images and, with three channels, flip them; feature vectors are returned unchanged.

    Args:
        inputs: shape (n, C, H, W), or (n, d).
        generator: source of the shifts and flips, on the CPU.
        whole: size of the batch that the inputs are rows of; None if they are all of it.
        part: rows of that batch that the inputs are; they are changed as they would be within the whole batch.
    Returns:
        Shape, dtype and device of ``inputs``.
    """
    if inputs.ndim != 4:
        return inputs
    count, channels, height, width = inputs.shape
    whole = count if whole is None else whole
    reach = max(1, min(height, width) // SHIFT)
    # Drawn for the whole batch, then cut: the union over the ranks equals the batch of a single process.
    moves = torch.randint(0, 2 * reach + 1, (2, whole), generator=generator)[:, part]
    moves = moves.to(inputs.device, non_blocking=True)
    padded = F.pad(inputs, (reach,) * 4, mode="replicate")
    rows = moves[0].view(-1, 1) + torch.arange(height, device=inputs.device)
    columns = moves[1].view(-1, 1) + torch.arange(width, device=inputs.device)
    sample = torch.arange(count, device=inputs.device).view(-1, 1, 1)
    # Advanced indices around a slice put the sliced dimension, the channels, last; permute moves it back.
    shifted = padded[sample, :, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)
    if channels != 3:
        return shifted.contiguous()
    flipped = torch.rand(whole, generator=generator)[part] < 0.5
    flipped = flipped.to(inputs.device, non_blocking=True)
    return torch.where(flipped.view(-1, 1, 1, 1), shifted.flip(3), shifted)


def strong(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Change images (n, C, H, W) or vectors (n, d) as far as their class can still be recognised."""
    if inputs.ndim != 4:
        noise = torch.randn(inputs.shape, generator=generator).to(inputs)
        kept = (torch.rand(inputs.shape, generator=generator) >= DROPPED).to(inputs)
        return (inputs + NOISE * inputs.std() * noise) * kept
    moved = weak(inputs, generator)
    count, _, height, width = moved.shape
    # Relative to each image's own mean and deviation: inputs are normalised, so that pixels have no fixed range.
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
