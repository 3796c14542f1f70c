"""Facts that a checkpoint carries beside its weights, against the data that it is to be used on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.build.selection import preprocess_keys
from orchestrator.errors import PreflightError
from orchestrator.spec.schema import SweepSpec
from selmix.checkpoint_file import carried_facts, read_checkpoint
from selmix.data.wording import listed
from selmix.files import expanded_path

MAX_NAMES_SHOWN = 6


def carried_notes(spec: SweepSpec, class_names: Sequence[str]) -> list[str]:
    """Compare names of classes and preprocessing that a checkpoint carries with those of the data.

    A logit says its class by its place alone: the same classes in another order are an error that no shape shows.

    Args:
        spec: of the sweep.
        class_names: of the data, in the order of the labels.
    Returns:
        What differs and may be meant, one line each.
    Raises:
        PreflightError: the classes are the same in another order, or the checkpoint cannot be read.
    """
    if spec.pretrain.checkpoint is None:
        return []
    try:
        path = expanded_path(spec.pretrain.checkpoint)
        names = read_checkpoint(path, on_meta=True).class_names
        facts = carried_facts(path)
    except ValueError as error:
        raise PreflightError(f"pretrain.checkpoint: {error}") from error
    notes = []
    if names is not None and (note := _order_note(path, names, class_names)) is not None:
        notes.append(note)
    steps, theirs = preprocess_keys(spec), facts.get("preprocess")
    if steps is not None and isinstance(theirs, dict):
        differing = [key for key in theirs if steps.get(key) != theirs[key]]
        notes += [
            f"data.{key}: {steps.get(key)}, the checkpoint was trained with {theirs[key]}"
            for key in differing
        ]
    return notes


def _order_note(path: Path, carried: Sequence[str], class_names: Sequence[str]) -> str | None:
    ours, theirs = [_plain(name) for name in class_names], [_plain(name) for name in carried]
    if ours == theirs:
        return None
    if sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours):
        # In the spelling of the data, so that it can be copied into the file.
        order = [class_names[ours.index(name)] for name in theirs]
        first = next(k for k in range(len(ours)) if ours[k] != theirs[k])
        raise PreflightError(
            f"pretrain.checkpoint: {path}: its classes must be in the order of the data's, got {carried[first]!r} as "
            f"class {first} where the data have {class_names[first]!r}; give data.class_names: [{', '.join(order)}]"
        )
    shown = [listed(list(names), "classes", MAX_NAMES_SHOWN) for names in (carried, class_names)]
    return (
        f"pretrain.checkpoint: {path}: its classes are named {shown[0]}, those of the data {shown[1]}: whether they "
        "are in one order cannot be checked"
    )


def _plain(name: str) -> str:
    """A name without what spellings differ in."""
    return "".join(letter for letter in name.casefold() if letter not in " _-")
