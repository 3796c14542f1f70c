"""Images that become float tensors batch by batch: from pixels in memory, or decoded from files or tables.

They take the place of a tensor of inputs in a :class:`selmix.data.splits.Split`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from selmix.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, decode

__all__ = [
    "IMAGENET_MEAN", "IMAGENET_STD", "SUFFIXES", "Encoded", "Images", "Inputs", "batch_of", "batches", "in_threads",
    "steps_of", "unreadable",
]  # fmt: skip

SUFFIXES = frozenset({
    ".apng", ".avif", ".bmp", ".bw", ".cur", ".dcx", ".dds", ".dib", ".fit", ".fits", ".flc", ".fli", ".gbr", ".gif",
    ".icb", ".icns", ".ico", ".im", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx",
    ".msp", ".pbm", ".pcd", ".pcx", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".pxr", ".qoi", ".ras", ".rgb",
    ".rgba", ".sgi", ".tga", ".tif", ".tiff", ".vda", ".vst", ".webp", ".xbm", ".xpm",
})  # fmt: skip
"""Suffixes, in lower case, of the image formats that Pillow reads by itself.

Written down, as the files of a folder must not change with Pillow's version. Pages (PostScript), films and containers
that Pillow only recognises are left out.
"""

_DECODERS = 4
_CPU = torch.device("cpu")

T = TypeVar("T")
U = TypeVar("U")


def in_threads(do: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """Do something with each item, and return what each gives, in their order."""
    # Threads, as Pillow and hashlib let go of the interpreter while they work; ``map`` keeps the order.
    with ThreadPoolExecutor(_DECODERS) as pool:
        return list(pool.map(do, items))


@dataclass(frozen=True)
class Encoded:
    """n encoded images (the bytes of image files) that lie in tables or in memory, one after another.

    Attributes:
        buffers: bytes, one-dimensional, uint8; several where splits of different buffers were joined.
        buffer: place in ``buffers`` of each image, shape (n,), int64.
        starts: first byte of each image in its buffer, shape (n,), int64.
        lengths: bytes of each image, shape (n,), int64.
        rows: row of each image in its table, from 0, for messages, shape (n,), int64.
        source: name of the table, for messages.
    """

    buffers: tuple[Tensor, ...]
    buffer: Tensor
    starts: Tensor
    lengths: Tensor
    rows: Tensor
    source: str = "image"

    @classmethod
    def of(cls, images: Iterable[bytes], source: str = "image") -> Encoded:
        """Encoded images from the bytes of each."""
        held = list(images)
        lengths = torch.tensor([len(each) for each in held], dtype=torch.int64)
        joined = torch.frombuffer(bytearray(b"".join(held) or b"\0"), dtype=torch.uint8)
        return cls.of_buffer(joined, lengths.cumsum(0) - lengths, lengths, source)

    @classmethod
    def of_buffer(cls, buffer: Tensor, starts: Tensor, lengths: Tensor, source: str = "image") -> Encoded:
        """Encoded images that lie in one buffer, which is not copied.

        Args:
            buffer: shape (bytes,), uint8.
            starts: first byte of each image, shape (n,), int64.
            lengths: bytes of each image, shape (n,), int64.
            source: name of the table, for messages.
        """
        return cls((buffer,), torch.zeros_like(starts), starts, lengths, torch.arange(len(starts)), source)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Tensor) -> Encoded:
        index = index.cpu()
        chosen = {key: getattr(self, key)[index] for key in ("buffer", "starts", "lengths", "rows")}
        return replace(self, **chosen)

    def bytes_of(self, k: int) -> bytes:
        """The bytes of image ``k``."""
        start, length = int(self.starts[k]), int(self.lengths[k])
        return self.buffers[int(self.buffer[k])][start : start + length].numpy().tobytes()

    def name_of(self, k: int) -> str:
        """Name of image ``k`` for messages."""
        return f"{self.source}: row {int(self.rows[k])}"

    def joined(self, other: Encoded) -> Encoded:
        """Join the images of both, in order; no bytes are copied."""
        moved = other.buffer + len(self.buffers)
        return Encoded(
            self.buffers + other.buffers, torch.cat([self.buffer, moved]), torch.cat([self.starts, other.starts]),
            torch.cat([self.lengths, other.lengths]), torch.cat([self.rows, other.rows]), self.source,
        )  # fmt: skip

    def compact(self) -> Encoded:
        """The same images in one buffer that holds nothing else."""
        alone = Encoded.of((self.bytes_of(k) for k in range(len(self))), self.source)
        return replace(alone, rows=self.rows)


@dataclass(frozen=True)
class Images(Preprocess):
    """n images of C channels, decoded where they are encoded, and normalised by channel.

    The steps of the preprocessing are attributes of it; of images that lie in memory as pixels only mean, std and
    input_range are read.

    Attributes:
        pixels: shape (n, C, H, W), uint8; None where the images are encoded.
        files: one per image, of a format that Pillow reads; empty where the images lie elsewhere.
        encoded: images that lie encoded in a table or in memory; None where they lie elsewhere.
        device: of the batches.
    """

    pixels: Tensor | None = None
    files: tuple[str, ...] = ()
    encoded: Encoded | None = field(default=None, kw_only=True)
    device: torch.device = field(default=_CPU, kw_only=True)

    def __len__(self) -> int:
        if self.pixels is not None:
            return len(self.pixels)
        return len(self.files) if self.encoded is None else len(self.encoded)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all images as one tensor, (n, C, H, W)."""
        if self.pixels is not None:
            return tuple(self.pixels.shape)
        return (len(self), self.channels, self.size, self.size)

    @property
    def is_decoded(self) -> bool:
        """True if no image needs decoding."""
        return self.pixels is not None

    def __getitem__(self, index: Tensor) -> Images:
        """Select the images at ``index``, shape (m,), int64, or a mask of shape (n,); no file is read."""
        if self.pixels is not None:
            return replace(self, pixels=self.pixels[index.to(self.pixels.device)])
        if self.encoded is not None:
            return replace(self, encoded=self.encoded[index])
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
            ValueError: one cannot be read as an image; the message names it.
        """
        if self.pixels is not None:
            raw = self.pixels[index.to(self.pixels.device)]
        else:
            decoded = in_threads(self.decoded, index.tolist())
            # Bytes travel to the device where all images are bytes; a deeper one makes floats of its batch.
            if any(each.dtype != torch.uint8 for each in decoded):
                decoded = [each.float() / 255.0 if each.dtype == torch.uint8 else each for each in decoded]
            raw = torch.stack(decoded)
        return self.normalised(raw.to(self.device))

    def decoded(self, k: int) -> Tensor:
        """Decode image ``k``, which lies in a file or encoded, as :func:`selmix.data.preprocess.decode` does."""
        if self.encoded is not None:
            return decode(self.encoded.bytes_of(k), self, self.encoded.name_of(k))
        return decode(self.files[k], self)

    def name_of(self, k: int) -> str:
        """Name of image ``k``, which lies in a file or encoded, for messages."""
        return self.files[k] if self.encoded is None else self.encoded.name_of(k)

    def digest(self) -> str:
        """Digest ``sha256:...`` of the pixels or of the encoded contents, and of their size and normalisation.

        The other steps of the preprocessing have a digest of their own.
        """
        total = hashlib.sha256(f"{self.shape[1:]}{self.mean}{self.std}".encode())
        if self.pixels is not None:
            total.update(self.pixels.cpu().contiguous().numpy().tobytes())
        else:
            for part in self.content_digests():
                total.update(part)
        return f"sha256:{total.hexdigest()}"

    def content_digests(self) -> list[bytes]:
        """SHA-256 of each encoded image, 32 bytes each, in order, the same in a file and elsewhere; [] for pixels.

        Raises:
            OSError: a file cannot be read.
        """
        if self.encoded is not None:
            encoded = self.encoded
            return in_threads(lambda k: hashlib.sha256(encoded.bytes_of(k)).digest(), range(len(encoded)))
        return in_threads(_file_digest, self.files)

    def joined(self, other: Images) -> Images:
        """Join the images of both, in order.

        Raises:
            ValueError: one lies elsewhere than the other, or the steps of their preprocessing differ.
        """
        same = self.shape[1:] == other.shape[1:] and self.preprocess == other.preprocess
        if self.pixels is not None and other.pixels is not None and same:
            return replace(self, pixels=torch.cat([self.pixels, other.pixels]))
        if self.encoded is not None and other.encoded is not None and same:
            return replace(self, encoded=self.encoded.joined(other.encoded))
        if self._place() != other._place() or not same:
            raise ValueError(
                "joined images must be of one size and all in memory or all in files, got "
                f"{self.shape[1:]} and {other.shape[1:]}"
            )
        return replace(self, files=self.files + other.files)

    def _place(self) -> str:
        return "pixels" if self.pixels is not None else "files" if self.encoded is None else "encoded"


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


def steps_of(inputs: Inputs) -> Preprocess | None:
    """Steps from an image to one of these inputs; None where they are no images.

    Pixels in memory have the size that their data set gave them: other images are brought to it.
    """
    if isinstance(inputs, Tensor):
        return None
    if not inputs.is_decoded:
        return inputs.preprocess
    side = inputs.shape[-1]
    return replace(inputs.preprocess, size=side, resize=side)


def unreadable(images: Images) -> list[str]:
    """Problems of images, one line for each that cannot be decoded; none of images that lie in memory as pixels."""
    if images.is_decoded:
        return []

    def problem(k: int) -> str | None:
        try:
            images.decoded(k)
        except ValueError as error:
            return str(error)
        return None

    return [line for line in in_threads(problem, range(len(images))) if line is not None]


def _file_digest(file: str) -> bytes:
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
