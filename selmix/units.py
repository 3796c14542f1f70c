"""Units of metrics: nearly all are fractions, a few have a unit of their own. Without torch, for readers of results."""

from __future__ import annotations

IN_OWN_UNITS = frozenset({"cost"})
"""Metrics that are no fractions: a mean cost has the unit of its matrix, and may be negative or above 1."""


def is_fraction(key: str) -> bool:
    """True if the values of a metric lie in [0, 1], shown as percent; also of the recall or precision of one class."""
    return key not in IN_OWN_UNITS
