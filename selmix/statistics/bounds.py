"""Bounds on metrics: the amount by which a value misses one. Without torch: results are read without it, too."""

from __future__ import annotations

TOLERANCE = 1e-9
"""Miss that is none: the rounding of a quotient of counts, far below what one sample changes."""


def missed_by(value: float, at_least: float | None, at_most: float | None) -> float:
    """Amount by which a value misses a bound; 0.0 where it meets it, or is not defined.

    Args:
        value: of the metric; NaN where it is not defined.
        at_least: floor; None for none.
        at_most: ceiling; None for none.
    """
    missed = 0.0
    if at_least is not None:
        missed = at_least - value
    elif at_most is not None:
        missed = value - at_most
    # NaN exceeds nothing.
    return missed if missed > TOLERANCE else 0.0
