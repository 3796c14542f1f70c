"""Classifiers of torchvision and timm by name, without their published weights, and the preprocessing of these."""

from __future__ import annotations

import difflib
import math
from typing import Any

from torch import nn

from selmix.data.preprocess import Preprocess

LIBRARIES = ("torchvision", "timm")


class MissingLibrary(ValueError):
    """A library that a model comes from is not installed."""


def library_model(library: str, name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Build a classifier for images with three channels.

    Args:
        library: one of LIBRARIES.
        name: of the model in the library, such as ``resnet18`` or ``vit_b_16``; of timm also with the tag of its
            weights, ``resnet50.a1_in1k``.
        input_shape: (3, H, W); a vision transformer is built for that size.
        num_classes: K.
    Raises:
        ValueError: no such model, timm is not installed, or the input has another form.
    """
    if len(input_shape) != 3 or input_shape[0] != 3:
        raise ValueError(
            f"{library}/{name} takes images (3, height, width), got samples of shape {input_shape}"
        )
    if library == "timm":
        return _timm_model(name, input_shape, num_classes)
    return _torchvision_model(name, input_shape, num_classes)


def library_preprocess(library: str, name: str, size: int | None = None) -> Preprocess:
    """Preprocessing that the published weights of a model were evaluated with.

    That is torchvision's ``transforms()`` of the model's default weights, and timm's ``resolve_data_config`` of the
    pre-trained configuration (of the tag, where the name has one).

    Args:
        library: one of LIBRARIES.
        name: of the model in the library.
        size: side of the input in pixels, at which the share that the cut leaves is kept; None for that of the weights.
    Raises:
        ValueError: no such model, timm is not installed, or its inputs are not square and no size is given.
    """
    steps = _timm_preprocess(name, size) if library == "timm" else _torchvision_preprocess(name, size)
    # Some of timm's models take bytes as they are, or one channel: what they have is not for images in colour.
    if (problems := steps.problems()) and size is None:
        raise ValueError(
            f"{library}/{name}: its own preprocessing is not supported ({problems[0]}); give data.size"
        )
    return steps


def _torchvision_preprocess(name: str, size: int | None) -> Preprocess:
    import torchvision

    _check_torchvision(name)
    # Every classifier of torchvision's has weights.
    preset: Any = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    crop, resize = preset.crop_size[0], preset.resize_size[0]
    return Preprocess(
        size=crop if size is None else size,
        resize=resize if size is None else round(size * resize / crop),
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _timm_preprocess(name: str, size: int | None) -> Preprocess:
    timm = _timm(name)
    from timm.data import resolve_data_config

    config: dict[str, Any] = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    _, height, width = config["input_size"]
    if size is None and height != width:
        raise ValueError(f"timm/{name} takes images of {height} x {width}, others than squares are not supported; "
                         "give data.size if its backbone takes any")  # fmt: skip
    side = height if size is None else size
    return Preprocess(
        size=side,
        resize=math.floor(side / config["crop_pct"]),
        crop=config["crop_mode"],
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _torchvision_model(name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    import torchvision

    _check_torchvision(name)
    options: dict[str, object] = {"weights": None, "num_classes": num_classes}
    # Its position embeddings are of one size; other models pool over any.
    if name.startswith("vit_"):
        options["image_size"] = input_shape[1]
    # Auxiliary classifiers would give several outputs; without init_weights torchvision warns.
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    try:
        model: nn.Module = torchvision.models.get_model(name, **options)
    except (ValueError, RuntimeError, AssertionError) as error:
        raise ValueError(f"torchvision/{name} cannot take {input_shape}: {error}") from error
    return model


def _check_torchvision(name: str) -> None:
    import torchvision

    # Of the top module alone: the others hold detection, segmentation and video models.
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise ValueError(f"torchvision has no classifier {name!r}; {_nearest(name, names)}")


def _timm(name: str) -> Any:
    """The library timm, if it has the model.

    Raises:
        MissingLibrary: it is not installed.
        ValueError: it has no such model, or no weights of that tag.
    """
    try:
        import timm
    except ImportError as error:
        raise MissingLibrary(f"timm/{name} needs timm; install it with pip install 'selmix[timm]'") from error
    architecture, dot, tag = name.partition(".")
    if architecture not in timm.list_models():
        raise ValueError(f"timm has no model {architecture!r}; {_nearest(architecture, timm.list_models())}")
    if dot and name not in (tagged := timm.list_models(f"{architecture}.*", pretrained=True)):
        raise ValueError(
            f"timm has no weights {tag!r} of {architecture}; there are: {', '.join(tagged) or 'none'}"
        )
    return timm


def _timm_model(name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    timm = _timm(name)
    options = {"num_classes": num_classes, "in_chans": input_shape[0], "pretrained": False}
    try:
        model: nn.Module = timm.create_model(name, img_size=input_shape[1], **options)
    except TypeError:  # convolutional models take any size, and no option for it
        model = timm.create_model(name, **options)
    return model


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, 3, 0.5)
    return (
        f"close to it: {', '.join(near)}"
        if near
        else f"there are {len(names)}, such as {', '.join(names[:3])}"
    )
