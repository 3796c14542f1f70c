"""Schedules over the steps of a run, for the policy's sharpness and for the learning rate."""

from __future__ import annotations

import math

# Number of drops of a `step` schedule, all by the same factor.
STEP_DROPS = 3


def scheduled(kind: str, start: float, final: float, progress: float) -> float:
    """Compute the value of a schedule.

    Args:
        kind: constant, linear, cosine, exponential or step.
        start: first value, > 0.
        final: last value, > 0 for exponential and step; not read by constant.
        progress: share of the run that is done, in [0, 1].
    Returns:
        ``start`` at 0 and ``final`` at 1; always ``start`` for constant.
    Raises:
        ValueError: the kind is unknown, or progress lies outside [0, 1].
    """
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress must lie in [0, 1], got {progress}")
    if kind == "constant":
        return start
    if kind == "linear":
        return start + (final - start) * progress
    if kind == "cosine":
        return final + (start - final) * (1.0 + math.cos(math.pi * progress)) / 2.0
    if kind == "exponential":
        return float(start * (final / start) ** progress)
    if kind == "step":
        # Equal stages, one more than drops; at progress 1 the floor would be one beyond the last.
        stage = min(math.floor(progress * (STEP_DROPS + 1)), STEP_DROPS)
        return float(start * (final / start) ** (stage / STEP_DROPS))
    raise ValueError(f"schedule must be constant, linear, cosine, exponential or step, got {kind!r}")
