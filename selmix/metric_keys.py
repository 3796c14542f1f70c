"""Keys of metrics: which are fractions, and those of single classes. Without torch, for readers of results."""

from __future__ import annotations

import math
import re

AGREEMENTS = frozenset({"mcc", "cohen_kappa"})
"""Metrics of agreement: 0 is chance, 1 is perfect, and what is worse than chance lies below 0."""

_ENDS = {
    "cost": (-math.inf, math.inf), "log_loss": (0.0, math.inf), "brier_score": (0.0, 2.0),
    **dict.fromkeys(sorted(AGREEMENTS), (-1.0, 1.0)),
}  # fmt: skip

IN_OWN_UNITS = frozenset(_ENDS)
"""Metrics that are no fractions: a mean cost has the unit of its matrix, and may be negative or above 1."""

# What every store of metrics takes as a part of a key.
_PLAIN_NAME = re.compile(r"(?!\.)[\w\-. :]{1,100}", re.ASCII)


def is_fraction(key: str) -> bool:
    """True if the values of a metric lie in [0, 1], shown as percent; also of the recall or precision of one class.

    Neither a metric in units of its own nor a function of the user's own, ``module:function``.
    """
    return key not in IN_OWN_UNITS and not is_own(key)


def ends_of(key: str) -> tuple[float, float]:
    """Least and largest value that a metric may have: (0, 1) of a fraction, infinite where there is none."""
    return (-math.inf, math.inf) if is_own(key) else _ENDS.get(key, (0.0, 1.0))


def is_own(key: str) -> bool:
    """True if a key is a function of the user's own, ``module:function``."""
    # The name of a class, behind a slash, may hold a colon.
    return ":" in key.partition("/")[0]


def class_rate_key(rate: str, label: int, class_name: str) -> str:
    """Key of the recall or precision of one class, ``recall/NAME``.

    Args:
        rate: ``recall`` or ``precision``.
        label: of the class.
        class_name: its name; where it could be no part of a key, the key is ``recall/class 3``.
    """
    plain = _PLAIN_NAME.fullmatch(class_name) is not None
    return f"{rate}/{class_name if plain else f'class {label}'}"
