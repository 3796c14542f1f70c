"""Preprocessing of images: from an encoded image of any kind to the numbers that a model takes.

It belongs to the model: another size, crop or mean than the weights were trained with costs accuracy in silence. The
arithmetic is that of torchvision's and timm's evaluation transforms.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image as PillowImage

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROPS = ("center", "squash", "border")
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
INPUT_RANGES = (1, 255)
# Of the shorter side, before the centre is cut out, as is usual for ImageNet.
_RESIZED = 256 / 224
# Sixteen bits per pixel in one channel; Pillow has no mode for sixteen bits in three, and reads their upper bytes.
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_MIN_SIZE = 8


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Steps from an encoded image to a model's input: resize, cut out the centre, scale, normalise by channel.

    Images become RGB, or gray where ``mean`` has one channel; the orientation that a camera wrote beside the pixels is
    followed, transparency is dropped (the colour below it stays), and of several frames or pages the first one is read.
    Sixteen-bit images and floats keep their range: white is 1.0 before normalisation, as for eight bits.

    Attributes:
        size: H = W of the input, in pixels.
        resize: side in pixels that an image is brought to before the centre is cut out: the shorter one under
            ``center``, both under ``squash``, the longer one under ``border``. None: round(size * 256 / 224), of the
            shorter side, by the rounding of earlier versions of this package.
        crop: ``center`` (cut out of the shorter side's square), ``squash`` (the aspect ratio is given up) or
            ``border`` (the whole image, bordered by the mean colour).
        interpolation: one of INTERPOLATIONS, by Pillow, which filters before it shrinks.
        mean: of each channel, in units of ``input_range``.
        std: of each channel, in units of ``input_range``.
        input_range: value of white before the normalisation: 1, or 255 for models that take bytes.
        white: pixel value of white in images of more than eight bits (4095 for twelve bits in files of sixteen); None:
            65535 for sixteen bits, 1 for floats; 32-bit whole numbers need it.
    """

    size: int = 224
    resize: int | None = None
    crop: str = "center"
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    input_range: int = 1
    white: float | None = None

    def __post_init__(self) -> None:
        # A sweep file gives whole numbers too, and Python lists: equal steps must have equal digests.
        for key in ("mean", "std"):
            object.__setattr__(self, key, tuple(float(value) for value in getattr(self, key)))

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def preprocess(self) -> Preprocess:
        """These steps alone, where something else has them too."""
        return Preprocess(**{each.name: getattr(self, each.name) for each in fields(Preprocess)})

    @property
    def is_earlier(self) -> bool:
        """True if only size, mean and std differ from what every earlier version did."""
        earlier = Preprocess(size=self.size, mean=self.mean, std=self.std)
        return self.preprocess == earlier

    def problems(self) -> list[str]:
        """Problems ``key: must ..., got ...``, one for each key that is out of range."""
        found = []
        if self.size < _MIN_SIZE:
            found.append(f"size: must be >= {_MIN_SIZE}, got {self.size}")
        elif self.resize is not None and self.resize < self.size and self.crop != "border":
            found.append(f"resize: must be >= size, {self.size}, as the centre is cut out, got {self.resize}")
        elif self.resize is not None and self.resize < 1:
            found.append(f"resize: must be >= 1, got {self.resize}")
        for key, known in (("crop", CROPS), ("interpolation", INTERPOLATIONS), ("input_range", INPUT_RANGES)):
            if getattr(self, key) not in known:
                names = ", ".join(map(str, known))
                found.append(f"{key}: must be one of {names}, got {getattr(self, key)!r}")
        # NaN fails every comparison, and is refused with the rest.
        if self.white is not None and not 0 < self.white < math.inf:
            found.append(f"white: must be > 0, got {self.white:g}")
        return found + self._normalisation_problems()

    def _normalisation_problems(self) -> list[str]:
        found = []
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3:
                found.append(f"{key}: must have 3 numbers, for red, green and blue, got {len(values)}")
        if not all(0 <= value <= self.input_range for value in self.mean):
            hint = "; give input_range: 255 for inputs of 0 to 255" if self.input_range == 1 else ""
            found.append(
                f"mean: must lie between 0 and input_range, {self.input_range}, got {list(self.mean)}{hint}"
            )
        elif self.input_range == 255 and 0 < max(self.mean, default=0) <= 1:
            found.append(
                f"mean: must be in units of input_range, 0 to 255, got {list(self.mean)}; give input_range: 1"
            )
        if not all(0 < value < math.inf for value in self.std):
            found.append(f"std: must be > 0, got {list(self.std)}")
        return found

    def as_keys(self) -> dict[str, Any]:
        """As the keys of a sweep file's ``data``, plain values; without those that have no value."""
        found = {each.name: getattr(self, each.name) for each in fields(Preprocess)}
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}
        return {key: value for key, value in plain.items() if value is not None}

    @classmethod
    def of_keys(cls, keys: Mapping[str, Any]) -> Preprocess:
        """The steps that keys of a sweep file's ``data`` say; other keys are passed over."""
        known = {each.name for each in fields(Preprocess)}
        given: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in keys.items() if key in known
        }
        return cls(**given)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Scale and normalise images, as floats.

        Args:
            pixels: shape (m, C, H, W): uint8, or floats in [0, 1].
        """
        raw = pixels.float() / 255.0 if pixels.dtype == torch.uint8 else pixels
        if self.input_range != 1:
            raw = raw * self.input_range
        # Every training step comes by here, and must not wait for the device.
        mean, std = (
            torch.tensor(v).view(-1, 1, 1).to(raw.device, non_blocking=True) for v in (self.mean, self.std)
        )
        return (raw - mean) / std

    def placed(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Size (W, H) that an image is resized to, and the (left, top) corner of the square that is cut out of it.

        A corner below 0 is a border.
        """
        if self.resize is None:
            scale = round(self.size * _RESIZED) / min(width, height)
            # Never smaller than the centre, whatever the rounding does.
            wide, high = (max(self.size, round(side * scale)) for side in (width, height))
            return (wide, high), ((wide - self.size) // 2, (high - self.size) // 2)
        if self.crop == "squash":
            wide = high = self.resize
        elif self.crop == "border":
            ratio = max(width, height) / self.resize
            wide, high = (max(1, round(side / ratio)) for side in (width, height))
        else:
            short, long = sorted((width, height))
            other = int(self.resize * long / short)
            wide, high = (self.resize, other) if width <= height else (other, self.resize)
        # A border is one pixel wider at the end where it cannot be equal, a cut is rounded: as the libraries do.
        corner = [
            -((self.size - side) // 2) if side < self.size else round((side - self.size) / 2.0)
            for side in (wide, high)
        ]
        return (wide, high), (corner[0], corner[1])


def decode(
    source: str | Path | bytes | PillowImage.Image, steps: Preprocess, name: str | None = None
) -> Tensor:
    """Decode one image, resize it and cut out its centre; it is not normalised yet.

    Args:
        source: path of a file, the bytes of one, or an opened image.
        steps: of the preprocessing.
        name: of the image for messages; None for the path.
    Returns:
        Shape (C, size, size): uint8 for images of up to eight bits per channel, float32 in [0, 1] beyond.
    Raises:
        ValueError: it cannot be read as an image, is too large to be one, or its range is not known; the message begins
            with the name.
    """
    # Pixels in memory do without Pillow.
    from PIL import Image, ImageOps

    where = name if name is not None else str(source) if isinstance(source, str | Path) else "image"
    try:
        if isinstance(source, Image.Image):
            return _brought(ImageOps.exif_transpose(source), source.format, steps, where)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            # Cameras write the orientation beside the pixels.
            return _brought(ImageOps.exif_transpose(opened), opened.format, steps, where)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"{where}: must be an image that fits in memory, got a decompression bomb, or a very large image "
            f"({str(error).split(', could be')[0]}); make it smaller or remove it"
        ) from error
    except _UnknownRange:
        raise
    except Exception as error:  # a damaged file raises nearly anything
        # Pillow names an object in memory by its address.
        reason = re.sub(r" <_io\.BytesIO object at 0x\w+>", "", str(error)) or type(error).__name__
        raise ValueError(f"{where}: must be an image that Pillow reads: {reason}") from error


class _UnknownRange(ValueError):
    """The range of an image's pixels is not known, or is left."""


def _brought(image: PillowImage.Image, kind: str | None, steps: Preprocess, where: str) -> Tensor:
    """An opened image as a tensor of the model's size."""
    from PIL import Image

    deep = image.mode in (*SIXTEEN_BITS, "I", "F")
    # As floats, because Pillow's own conversion cuts everything off at 255.
    if deep:
        image = _floats(image, kind, steps.white, where)
    else:
        # By way of RGBA, which gives the same colours: Pillow warns of transparent colours in a palette.
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        image = image.convert("L" if steps.channels == 1 else "RGB")
    size, (left, top) = steps.placed(*image.size)
    if size != image.size:
        image = image.resize(size, Image.Resampling[steps.interpolation.upper()])
    if min(left, top) < 0:
        image, (left, top) = _bordered(image, steps, (left, top))
    image = image.crop((left, top, left + steps.size, top + steps.size))
    pixels = torch.from_numpy(np.array(image))
    if deep:
        # Filters with negative lobes overshoot at edges.
        return pixels.clamp(0.0, 1.0).expand(steps.channels, -1, -1)
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _bordered(
    image: PillowImage.Image, steps: Preprocess, corner: tuple[int, int]
) -> tuple[PillowImage.Image, tuple[int, int]]:
    """An image within a border of the mean colour, and the corner of what is cut out of that."""
    from PIL import Image

    size = tuple(max(side, steps.size) for side in image.size)
    shares = [value / steps.input_range for value in steps.mean]
    colour: Any = sum(shares) / len(shares) if image.mode == "F" else tuple(round(255 * v) for v in shares)
    if image.mode == "L":
        colour = colour[0]
    whole = Image.new(image.mode, (size[0], size[1]), colour)
    whole.paste(image, (max(0, -corner[0]), max(0, -corner[1])))
    return whole, (max(0, corner[0]), max(0, corner[1]))


def _floats(image: PillowImage.Image, kind: str | None, white: float | None, where: str) -> PillowImage.Image:
    """An image of more than eight bits, in one channel, with its pixels in [0, 1].

    Raises:
        _UnknownRange: its white is not known, or pixels lie outside.
    """
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    if white is None:
        # Pillow brings the sixteen bits of these two formats into 32-bit numbers, of PNG in older versions only.
        if image.mode in SIXTEEN_BITS or (image.mode == "I" and kind in ("PNG", "PPM")):
            white = 65535.0
        elif image.mode == "F":
            white = 1.0
        else:
            raise _UnknownRange(
                f"{where}: must be an image of a known range, got 32-bit whole numbers, {values.min():g} to "
                f"{values.max():g}; give data.white, the pixel value of white, or save it with 8 or 16 bits"
            )
    low, high = float(values.min()), float(values.max())
    # Not ``low < 0 or ...``: NaN must be refused too. Floats may lie beyond their white by their rounding.
    if not (low >= 0 and high <= white * (1 + 1e-6)):
        raise _UnknownRange(
            f"{where}: must have pixels between 0 and {white:g}, got {low:g} to {high:g}; give data.white, the pixel "
            "value of white, or save it with 8 or 16 bits"
        )
    return Image.fromarray((values / white).astype(np.float32))
