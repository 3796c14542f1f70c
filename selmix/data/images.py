"""Images that become float tensors batch by batch: from bytes in memory, or from files, decoded for each batch.

They take the place of a tensor of inputs in a :class:`selmix.data.splits.Split`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# In both spellings, as suffixes are compared exactly.
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
# Of the shorter side, before the centre is cut out, as is usual for ImageNet.
_RESIZED = 256 / 224
_DECODERS = 4
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Images:
    """n images of C channels (three, where they lie in files), normalised by channel.

    Attributes:
        pixels: shape (n, C, H, W), uint8; None where the images lie in files.
        files: one per image, JPEG or PNG; empty where ``pixels`` holds them.
        size: H = W of the centre that is cut out of a file.
        mean: of each channel, for the normalisation.
        std: of each channel, for the normalisation.
        device: of the batches.
    """

    pixels: Tensor | None = None
    files: tuple[str, ...] = ()
    size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    device: torch.device = _CPU

    def __len__(self) -> int:
        return len(self.files) if self.pixels is None else len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all images as one tensor, (n, C, H, W)."""
        return (len(self), 3, self.size, self.size) if self.pixels is None else tuple(self.pixels.shape)

    def __getitem__(self, index: Tensor) -> Images:
        """Select the images at ``index``, shape (m,), int64, or a mask of shape (n,); no file is read."""
        if self.pixels is not None:
            return replace(self, pixels=self.pixels[index.to(self.pixels.device)])
        # A tuple takes no mask.
        if index.dtype == torch.bool:
            index = torch.nonzero(index).flatten()
        return replace(self, files=tuple(self.files[k] for k in index.tolist()))

    def to(self, device: torch.device) -> Images:
        pixels = None if self.pixels is None else self.pixels.to(device)
        return replace(self, pixels=pixels, device=torch.device(device))

    def batch(self, index: Tensor) -> Tensor:
        """Load images as floats, shape (m, C, H, W), on the device.

        Args:
            index: shape (m,), int64.
        Raises:
            ValueError: a file cannot be read as an image; the message names it.
        """
        if self.pixels is not None:
            raw = self.pixels[index.to(self.pixels.device)]
        else:
            chosen = [self.files[k] for k in index.tolist()]
            # Threads, as Pillow lets go of the interpreter while it decodes; ``map`` keeps the order.
            with ThreadPoolExecutor(_DECODERS) as pool:
                raw = torch.stack(list(pool.map(self._decoded, chosen)))
        raw = raw.to(self.device).float() / 255.0
        # Every training step comes by here, and must not wait for the device.
        mean, std = (
            torch.tensor(v).view(-1, 1, 1).to(self.device, non_blocking=True) for v in (self.mean, self.std)
        )
        return (raw - mean) / std

    def _decoded(self, file: str) -> Tensor:
        """Decode one file to bytes, shape (3, size, size): its shorter side resized, the centre cut out."""
        # Pixels in memory do without Pillow.
        from PIL import Image, ImageOps

        try:
            with Image.open(file) as opened:
                # Cameras write the orientation beside the pixels.
                image = ImageOps.exif_transpose(opened).convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for damaged files
            raise ValueError(f"{file}: must be a JPEG or PNG image: {error}") from error
        scale = round(self.size * _RESIZED) / min(image.size)
        # Never smaller than the centre, whatever the rounding does.
        wide, high = (max(self.size, round(side * scale)) for side in image.size)
        left, top = (wide - self.size) // 2, (high - self.size) // 2
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
        image = image.crop((left, top, left + self.size, top + self.size))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def digest(self) -> str:
        """Digest ``sha256:...`` of the pixels or of the files' contents, and of their size and normalisation."""
        total = hashlib.sha256(f"{self.shape[1:]}{self.mean}{self.std}".encode())
        if self.pixels is not None:
            total.update(self.pixels.cpu().contiguous().numpy().tobytes())
        else:
            for part in self.file_digests():
                total.update(part)
        return f"sha256:{total.hexdigest()}"

    def file_digests(self) -> list[bytes]:
        """SHA-256 of each file, 32 bytes each, in order; [] for pixels.

        Raises:
            OSError: a file cannot be read.
        """
        with ThreadPoolExecutor(_DECODERS) as pool:
            return list(pool.map(_file_digest, self.files))

    def joined(self, other: Images) -> Images:
        """Join the images of both, in order.

        Raises:
            ValueError: one has pixels and the other files, or the sizes differ.
        """
        if (self.pixels is None) != (other.pixels is None) or self.shape[1:] != other.shape[1:]:
            raise ValueError(
                "joined images must be of one size and all in memory or all in files, got "
                f"{self.shape[1:]} and {other.shape[1:]}"
            )
        if self.pixels is not None and other.pixels is not None:
            return replace(self, pixels=torch.cat([self.pixels, other.pixels]))
        return replace(self, files=self.files + other.files)


Inputs = Tensor | Images


def batch_of(inputs: Inputs, index: Tensor) -> Tensor:
    """Inputs at ``index`` as a float tensor on their device."""
    return inputs[index] if isinstance(inputs, Tensor) else inputs.batch(index)


def batches(inputs: Inputs, size: int) -> Iterator[Tensor]:
    """All inputs in order, ``size`` at a time."""
    if isinstance(inputs, Tensor):
        yield from torch.split(inputs, size)
        return
    for start in range(0, len(inputs), size):
        yield inputs.batch(torch.arange(start, min(start + size, len(inputs))))


def unreadable(files: Sequence[str], size: int) -> list[str]:
    """Problems of image files, one line per file that cannot be decoded to ``size``."""
    images = Images(files=tuple(files), size=size)

    def problem(file: str) -> str | None:
        try:
            images._decoded(file)
        except ValueError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(_DECODERS) as pool:
        return [line for line in pool.map(problem, files) if line is not None]


def _file_digest(file: str) -> bytes:
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
