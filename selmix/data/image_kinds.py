"""Kinds of images that lose something on their way to a model, counted from their headers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial

from selmix.data.images import Images, in_threads
from selmix.data.preprocess import SIXTEEN_BITS

_KINDS = {
    "transparent": "have transparency, which is dropped; the colour below it stays",
    "frames": "have several frames or pages, of which the first one is read",
    "cmyk": "are in CMYK, which is converted without a colour profile",
    "sixteen": "have sixteen bits, whose white is {white}",
    "large": "have so many pixels that Pillow warns of a decompression bomb",
}


def kinds_of(splits: Mapping[str, Images]) -> list[str]:
    """Say how many images are of a kind that loses something, one line for each kind.

    Images that cannot be opened are left to whoever decodes them.

    Args:
        splits: name -> images that are to be decoded.
    """
    found: dict[str, list[str]] = {key: [] for key in _KINDS}
    total = 0
    for images in splits.values():
        total += len(images)
        for k, keys in enumerate(in_threads(partial(_kinds, images), range(len(images)))):
            for key in keys:
                found[key].append(images.name_of(k))
    white = next((images.white for images in splits.values() if images.white is not None), 65535)
    return [
        f"{len(names)} of {total} images {_KINDS[key].format(white=f'{white:g}')} (such as {names[0]})"
        for key, names in found.items()
        if names
    ]


def _kinds(images: Images, k: int) -> list[str]:
    from PIL import Image

    source = io.BytesIO(images.encoded.bytes_of(k)) if images.encoded is not None else images.files[k]
    try:
        with Image.open(source) as opened:
            limit, pixels = Image.MAX_IMAGE_PIXELS, opened.width * opened.height
            true_of = {
                "transparent": opened.mode in ("RGBA", "LA", "PA", "RGBa", "La")
                or "transparency" in opened.info,
                "frames": getattr(opened, "n_frames", 1) > 1,
                "cmyk": opened.mode == "CMYK",
                "sixteen": opened.mode in SIXTEEN_BITS,
                "large": limit is not None and pixels > limit,
            }
    except Exception:  # a damaged file raises nearly anything
        return []
    return [key for key, value in true_of.items() if value]
