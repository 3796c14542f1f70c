"""Words that messages share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def closest(got: object, valid: Iterable[str]) -> str:
    """``did you mean X?``, or what there is."""
    names = list(valid)
    near = difflib.get_close_matches(str(got), names, 1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(names) or 'none'}"


def as_yaml(value: Any) -> str:
    """A plain value as a sweep file would have it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "nothing" if value is None else repr(value)


def is_number(value: object, whole: bool = False) -> bool:
    """True for a number as a sweep file has it: booleans are none."""
    return not isinstance(value, bool) and isinstance(value, int if whole else int | float)


def first_line(error: BaseException) -> str:
    """First line of what an error says, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)
