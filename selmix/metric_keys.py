"""Keys of metrics: which are fractions, and those of single classes. Without torch, for readers of results."""

from __future__ import annotations

import re

IN_OWN_UNITS = frozenset({"cost", "log_loss"})
"""Metrics that are no fractions: a mean cost has the unit of its matrix and may be negative, nats have no end."""

SIGNED = frozenset({"mcc", "cohen_kappa"})
"""Correlations and agreements, from -1 to 1."""

# What every store of metrics takes as a part of a key.
_PLAIN_NAME = re.compile(r"(?!\.)[\w\-. :]{1,100}", re.ASCII)


def is_fraction(key: str) -> bool:
    """True if a metric is shown as percent: a fraction, the recall or precision of one class, a correlation.

    Neither a metric in units of its own nor a function of the user's own, ``module:function``.
    """
    return key not in IN_OWN_UNITS and ":" not in key.partition("/")[0]


def range_of(key: str) -> tuple[float, float] | None:
    """Least and greatest value of a metric; None where they are not known."""
    if not is_fraction(key):
        return None
    return (-1.0, 1.0) if key in SIGNED else (0.0, 1.0)


def class_rate_key(rate: str, label: int, class_name: str) -> str:
    """Key of the recall or precision of one class, ``recall/NAME``.

    Args:
        rate: ``recall`` or ``precision``.
        label: of the class.
        class_name: its name; where it could be no part of a key, the key is ``recall/class 3``.
    """
    plain = _PLAIN_NAME.fullmatch(class_name) is not None
    return f"{rate}/{class_name if plain else f'class {label}'}"
