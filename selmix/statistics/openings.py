"""Levels of the claims on a test split: by how often it was seen before, and by how many claims are made at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def level_of_opening(openings_before: int, level: float = 0.95) -> float:
    """Level of an interval of opening t = ``openings_before`` + 1: ``level`` at t = 1, then 1 - alpha / (t (t + 1)).

    The shares alpha / (t (t + 1)) add up to alpha over all t, so the intervals of a test split that is opened again
    and again grow wider. No level makes a choice that was made after a look at test confirmatory: from t = 2 on this
    interval stands beside the plain one, as a measure of caution.

    Args:
        openings_before: t - 1, at least 0.
        level: 1 - alpha, in (0, 1).
    Raises:
        ValueError: an argument out of range.
    """
    if openings_before < 0:
        raise ValueError(f"openings_before: must be >= 0, got {openings_before}")
    _check(level)
    if openings_before == 0:
        return level
    t = openings_before + 1
    return 1.0 - (1.0 - level) / (t * (t + 1))


def holm_levels(
    names: Iterable[str], told_apart: Callable[[str, float], bool], level: float = 0.95
) -> dict[str, float]:
    """Level at which Holm's procedure decides each of several comparisons, all right with probability ``level``.

    With k comparisons left each is decided at 1 - alpha / k; those that are told apart leave, until none does. This
    is Holm's step-down procedure without its order: it needs decisions, and no p-values.

    Args:
        names: of the comparisons.
        told_apart: (name, level) -> whether the two sides are told apart at that level; False at a level where it was
            False at a lower one.
        level: of all comparisons together, in (0, 1).
    Returns:
        Name -> level; one that is not told apart has that of the last step.
    Raises:
        ValueError: a level out of range.
    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics, 1979.
    """
    _check(level)
    left = list(names)
    levels: dict[str, float] = {}
    while left:
        # Exactly the plain level where one is left, bit by bit.
        step = 1.0 - (1.0 - level) / len(left) if len(left) > 1 else level
        leaving = [name for name in left if told_apart(name, step)]
        for name in leaving or left:
            levels[name] = step
        left = [name for name in left if name not in leaving] if leaving else []
    return levels


def _check(level: float) -> None:
    # ``not <``, so that NaN is refused too.
    if not 0.0 < level < 1.0:
        raise ValueError(f"level: must lie in (0, 1), got {level}")
