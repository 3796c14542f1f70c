"""Preprocessing that belongs to a model by name."""

from __future__ import annotations

from dataclasses import replace

from selmix.data.preprocess import Preprocess
from selmix.models.libraries import LIBRARIES, library_preprocess

# Of the shorter side to the centre that is cut out, as is usual for ImageNet.
_RESIZED = 256 / 224
_SIZE = 224


def default_preprocess(name: str, size: int | None = None, input_range: int = 1) -> Preprocess:
    """Preprocessing of a model where a sweep file does not say another one.

    That of the published weights for torchvision's and timm's models. All other models, and a user's own, take
    ImageNet's: 224 cut out of 256, bilinear, its mean and standard deviation; with ``input_range`` 255 the bytes as
    they are.

    Args:
        name: of the model, as in :class:`selmix.models.config.ModelConfig`.
        size: side of the input in pixels; None for the model's own.
        input_range: 1, or 255.
    Raises:
        MissingLibrary: timm's model without timm.
        ValueError: the library has no such model, or its preprocessing is not supported.
    """
    library, slash, model = name.partition("/")
    if slash and library in LIBRARIES:
        steps = library_preprocess(library, model, size)
        mean, std = (tuple(value * input_range for value in values) for values in (steps.mean, steps.std))
        return replace(steps, mean=mean, std=std, input_range=input_range)
    side = _SIZE if size is None else size
    plain = Preprocess(size=side, resize=round(side * _RESIZED), input_range=input_range)
    if input_range == 1:
        return plain
    zeros, ones = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return Preprocess(size=side, resize=plain.resize, mean=zeros, std=ones, input_range=input_range)
