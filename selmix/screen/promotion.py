"""Promotion: the best configurations of a screen, kept apart from each other in the space of their parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from selmix.config import FinetuneConfig
from selmix.objectives import AnyObjective
from selmix.screen.result import Screened

DISTANCE = 0.1
"""Least distance of two promoted configurations; two drawn at random lie about a third apart."""

# A parameter that spans at least this factor is compared by its logarithm.
_LOG_FROM = 10.0


def parameter_distances(configs: Sequence[FinetuneConfig], objective: str) -> Tensor:
    """Distance of every two configurations: Gower's, the mean over the parameters of their differences in [0, 1].

    Parameters that act alike in all configurations are left out. The difference of two numbers is that of their places
    in the range that the configurations span, on a logarithmic scale where this range is positive and spans a factor of
    ten; any other two values, and a parameter that acts in one of the two only, differ by 1 or not at all.

    Args:
        configs: P settings.
        objective: decides which settings act (:meth:`FinetuneConfig.acting`).
    Returns:
        Shape (P, P), float64, in [0, 1]; 0 where all is equal.
    Source: Gower, "A general coefficient of similarity and some of its properties", Biometrics 1971.
    """
    acting = [config.acting(objective) for config in configs]
    names = sorted({name for values in acting for name in values})
    total = torch.zeros(len(configs), len(configs), dtype=torch.float64)
    differing = 0
    for name in names:
        column = [values.get(name) for values in acting]
        if all(value == column[0] for value in column):
            continue
        differing += 1
        total += _differences(column)
    return total / max(differing, 1)


def _differences(column: Sequence[Any]) -> Tensor:
    """Differences of the values of one parameter, shape (P, P)."""
    numeric = [isinstance(value, int | float) and not isinstance(value, bool) for value in column]
    codes = {value: code for code, value in enumerate(dict.fromkeys(column))}
    code = torch.tensor([codes[value] for value in column])
    different = (code.unsqueeze(1) != code).double()
    numbers = [value for value, is_number in zip(column, numeric, strict=True) if is_number]
    if not numbers or max(numbers) == min(numbers):
        return different
    scaled = math.log if min(numbers) > 0 and max(numbers) / min(numbers) >= _LOG_FROM else float
    low, high = scaled(min(numbers)), scaled(max(numbers))
    places = [
        (scaled(value) - low) / (high - low) if is_number else 0.0
        for value, is_number in zip(column, numeric, strict=True)
    ]
    place, known = torch.tensor(places, dtype=torch.float64), torch.tensor(numeric)
    both = known.unsqueeze(1) & known
    return torch.where(both, (place.unsqueeze(1) - place).abs(), different)


def promoted(order: Sequence[int], distances: Tensor, count: int, least: float = DISTANCE) -> list[int]:
    """Choose ``count`` configurations: greedily the best that lies far enough from all chosen before.

    Where too few lie apart, the best of those left out fill up.

    Args:
        order: configurations that may be chosen, the best first.
        distances: of every two, shape (P, P).
        count: how many to choose, >= 0.
        least: distance that every two of them must have, unless they fill up.
    Returns:
        At most ``count`` configurations, in the order in which they were chosen.
    """
    chosen: list[int] = []
    for number in order:
        if len(chosen) >= count:
            break
        if all(float(distances[number, other]) >= least for other in chosen):
            chosen.append(number)
    left = [number for number in order if number not in chosen]
    return chosen + left[: count - len(chosen)]


def promotion(
    rows: Sequence[Screened], objective: AnyObjective, count: int, least: float = DISTANCE
) -> list[int]:
    """Choose the configurations of a screen that are promoted: the best that stand, kept apart (:func:`promoted`).

    Args:
        rows: all configurations, of one screen or of several generations.
        objective: decides which settings act.
        count: how many to choose, >= 0.
        least: distance that every two of them must have, unless they fill up.
    Returns:
        Places in ``rows``, the best first.
    """
    if not count:
        return []
    last = (-math.inf, -math.inf)
    # Cross-fitted ranks are compared with each other only: where there are some, rows without one come last. Of equal
    # ones the better on select comes first.
    order = sorted(
        (place for place, row in enumerate(rows) if row.stands and row.rank is not None),
        key=lambda place: (rows[place].cross_fitted_rank or last, rows[place].rank or last),
        reverse=True,
    )
    name = objective if isinstance(objective, str) else ""
    return promoted(order, parameter_distances([row.config for row in rows], name), count, least)
