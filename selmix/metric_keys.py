"""Keys of metrics: which are fractions, and those of single classes. Without torch, for readers of results."""

from __future__ import annotations

import re

IN_OWN_UNITS = frozenset({"cost"})
"""Metrics that are no fractions: a mean cost has the unit of its matrix, and may be negative or above 1."""

# What every store of metrics takes as a part of a key.
_PLAIN_NAME = re.compile(r"(?!\.)[\w\-. :]{1,100}", re.ASCII)


def is_fraction(key: str) -> bool:
    """True if the values of a metric lie in [0, 1], shown as percent; also of the recall or precision of one class."""
    return key not in IN_OWN_UNITS


def class_rate_key(rate: str, label: int, class_name: str) -> str:
    """Key of the recall or precision of one class, ``recall/NAME``.

    Args:
        rate: ``recall`` or ``precision``.
        label: of the class.
        class_name: its name; where it could be no part of a key, the key is ``recall/class 3``.
    """
    plain = _PLAIN_NAME.fullmatch(class_name) is not None
    return f"{rate}/{class_name if plain else f'class {label}'}"
