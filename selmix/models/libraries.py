"""Classifiers of torchvision and timm by name, without their published weights."""

from __future__ import annotations

import difflib

from torch import nn

LIBRARIES = ("torchvision", "timm")


def library_model(library: str, name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Build a classifier for images with three channels.

    Args:
        library: one of LIBRARIES.
        name: of the model in the library, such as ``resnet18`` or ``vit_b_16``.
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


def _torchvision_model(name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    import torchvision

    # Of the top module alone: the others hold detection, segmentation and video models.
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise ValueError(f"torchvision has no classifier {name!r}; {_nearest(name, names)}")
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


def _timm_model(name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"timm/{name} needs timm; install it with pip install 'selmix[timm]'") from error
    if name not in timm.list_models():
        raise ValueError(f"timm has no model {name!r}; {_nearest(name, timm.list_models())}")
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
