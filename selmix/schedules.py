"""Courses over the rounds or steps: of the policy's sharpness and of the learning rate."""

from __future__ import annotations

import math

STEP_DROPS = 3  # `step` goes from the first to the last value in so many equal factors


def scheduled(kind: str, start: float, final: float, progress: float) -> float:
    """Value of a schedule.

    Args:
        kind: constant, linear, cosine, exponential or step.
        start, final: first and last value, > 0 (``final`` is not read by constant).
        progress: share of the run that is done, in [0, 1].
    Returns:
        ``start`` at 0 and ``final`` at 1 (constant: ``start``).
    Raises:
        ValueError: an unknown kind, or progress outside [0, 1].
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
        stage = min(math.floor(progress * (STEP_DROPS + 1)), STEP_DROPS)
        return float(start * (final / start) ** (stage / STEP_DROPS))
    raise ValueError(f"schedule must be constant, linear, cosine, exponential or step, got {kind!r}")
