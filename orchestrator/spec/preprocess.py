"""Keys of ``data`` that the model decides where a sweep file does not give them, written out in a new sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from selmix.checkpoint_file import carried_facts
from selmix.data import DATA, as_fields, preprocess_of
from selmix.data.preprocess import INPUT_RANGES, Preprocess
from selmix.files import expanded_path
from selmix.models.libraries import MissingLibrary
from selmix.models.preprocessing import default_preprocess

LISTING = 2
"""Rule by which this version lists the images of a folder."""


def left_to_model(name: str, given: Mapping[str, Any], model: Any, pretrain: Any) -> dict[str, Any]:
    """Keys of a data set of images that a sweep file leaves open, with the values that its model gives them.

    Those of its checkpoint come first, where that carries any (a base model of this package does).

    Args:
        name: of the data set.
        given: the keys of ``data`` in the file, of any type.
        model: the section ``model`` of the file, of any type; None where it has none.
        pretrain: the section ``pretrain`` of the file, of any type; None where it has none.
    Raises:
        ValueError: the model is one of a library that has no such model.
    """
    kind = DATA[name]
    if not _holds_images(kind, given):
        return {}
    rules = {"listing": LISTING} if "listing" in kind.__dataclass_fields__ else {}
    section = model if isinstance(model, Mapping) else {}
    network = section.get("name", "small_cnn")
    size, input_range = given.get("size"), given.get("input_range")
    # What is of another type, or out of range, is reported by the check of the keys themselves.
    size = size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None
    input_range = input_range if input_range in INPUT_RANGES and not isinstance(input_range, bool) else None
    try:
        steps = _carried(pretrain, size, input_range) or default_preprocess(
            network if isinstance(network, str) else "", size, input_range or 1
        )
    except MissingLibrary:
        # Where the library is missing nothing is trained: a cluster may have it.
        return {}
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in (steps.as_keys() | rules).items()}
    return {key: value for key, value in values.items() if key not in given}


def _carried(pretrain: Any, size: int | None, input_range: int | None) -> Preprocess | None:
    """Preprocessing that a checkpoint carries, brought to a size; None where it has none, or one of another range."""
    path = pretrain.get("checkpoint") if isinstance(pretrain, Mapping) else None
    if not isinstance(path, str):
        return None
    # A variable that is not set is said where the weights are read.
    try:
        stored = carried_facts(expanded_path(path)).get("preprocess")
    except ValueError:
        return None
    if not isinstance(stored, Mapping):
        return None
    try:
        steps = Preprocess.of_keys(stored)
        sound = not steps.problems()
    # A file of another program may have anything under that name.
    except (TypeError, ValueError):
        return None
    if not sound or (input_range is not None and input_range != steps.input_range):
        return None
    if size is None or size == steps.size:
        return steps
    resize = None if steps.resize is None else round(size * steps.resize / steps.size)
    return replace(steps, size=size, resize=resize)


def _holds_images(kind: type[Any], given: Mapping[str, Any]) -> bool:
    """True if a data set's images are to be decoded; of some, its file says whether it has any."""
    if issubclass(kind, Preprocess):
        return True
    if "resize" not in kind.__dataclass_fields__:
        return False
    others = {key: value for key, value in given.items() if key not in Preprocess.__dataclass_fields__}
    try:
        return preprocess_of(kind(**as_fields(others))) is not None
    # Keys of another type have checks of their own, and the file need not be there to validate.
    except (ValueError, TypeError, OSError):
        return False


def earlier_keys(data: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of ``data`` of a stored specification, with the listing that earlier versions had where none is named."""
    kind = DATA.get(str(data.get("name")))
    if kind is None or "listing" not in kind.__dataclass_fields__:
        return dict(data)
    return {"listing": 1, **data}
