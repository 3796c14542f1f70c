"""Words that messages share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


def closest(got: object, valid: Iterable[str]) -> str:
    """``did you mean X?``, or the list of valid names where none is close."""
    names = list(valid)
    near = difflib.get_close_matches(str(got), names, 1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(names) or 'none'}"


def as_yaml(value: Any) -> str:
    """A plain value as a sweep file would have it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(as_yaml(each) for each in value)}]"
    # repr: the text '1' and the number 1 are different problems.
    return "nothing" if value is None else repr(value)


def is_number(value: object, whole: bool = False) -> bool:
    """True if ``value`` is a number as a sweep file has it: booleans are none."""
    # To Python a boolean is an integer.
    return not isinstance(value, bool) and isinstance(value, int if whole else int | float)


def first_line(error: BaseException) -> str:
    """First line of an error's message, or its kind where the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)


def counted(number: int, noun: str) -> str:
    """``1 problem``, ``3 problems``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def preprocess_words(keys: Mapping[str, Any]) -> str:
    """Preprocessing in one line.

    Args:
        keys: those of ``data``, all but ``resize`` and ``white`` given.
    """
    size, resize = keys["size"], keys.get("resize")
    # The rule of earlier versions, which wrote none.
    resized = round(size * 256 / 224) if resize is None else resize
    brought = {
        "center": f"the centre of the shorter side at {resized}",
        "squash": f"the centre of both sides at {resized}",
        "border": f"the longer side at {resized}, bordered",
    }[keys["crop"]]
    mean, std = (" ".join(f"{value:.4g}" for value in keys[key]) for key in ("mean", "std"))
    white = "" if keys.get("white") is None else f", white {keys['white']:g} beyond 8 bits"
    scaled = f"0 to {keys['input_range']}, mean {mean}, std {std}{white}"
    return f"{size} x {size}, {brought}, {keys['interpolation']}; {scaled}"


def unimproved(improved: int | None) -> str:
    """Words for a screen of which no configuration became better than its start on select; else empty."""
    return "; NONE IMPROVED ON ITS START" if improved == 0 else ""
