"""Promotion against a brute force over all choices, and distances by hand."""

from __future__ import annotations

import itertools

import pytest
import torch

from selmix.config import FinetuneConfig
from selmix.screen.promotion import parameter_distances, promoted


def test_distances_are_gowers() -> None:
    configs = [
        FinetuneConfig(lr=0.001, coefficient_min=0.6, steps=100),
        FinetuneConfig(lr=0.01, coefficient_min=0.8, steps=100),
        FinetuneConfig(lr=0.1, coefficient_min=1.0, steps=100),
        FinetuneConfig(lr=0.1, policy="uniform", coefficient_min=0.6, steps=100),
    ]
    found = parameter_distances(configs, "mean_recall")
    # Of the first three differ: the rate (by its logarithm, two decades), the coefficient, and, as nothing is mixed
    # at 1, layer and source of the partner samples.
    acting, without = configs[0].acting("mean_recall"), configs[3].acting("mean_recall")
    # What is not set differs in nothing from what does not act.
    uniform = {name for name in acting.keys() - without.keys() if acting[name] is not None}
    parameters = 4 + len(uniform | {"policy"})
    assert float(found[0, 1]) == pytest.approx((0.5 + 0.5) / parameters)
    assert float(found[0, 2]) == pytest.approx((1.0 + 1.0 + 2.0) / parameters)
    assert float(found[0, 3]) == pytest.approx((1.0 + len(uniform) + 1.0) / parameters)
    assert torch.equal(found, found.T)
    assert float(found.diagonal().abs().max()) == 0.0


def test_equal_configurations_do_not_differ() -> None:
    assert parameter_distances([FinetuneConfig()] * 3, "min_recall").abs().max() == 0.0


def test_a_narrow_range_is_not_logarithmic() -> None:
    found = parameter_distances([FinetuneConfig(lr=lr) for lr in (0.1, 0.2, 0.5)], "min_recall")
    assert float(found[0, 1]) == pytest.approx(0.25)


def test_the_choice_is_the_first_in_lexical_order() -> None:
    """Greedy by rank = of all sets that lie apart the one whose places are lexically first, filled up by rank."""
    g = torch.Generator().manual_seed(0)
    for _ in range(50):
        points = torch.rand(7, 2, generator=g, dtype=torch.float64)
        distances = torch.cdist(points, points)
        order = torch.randperm(7, generator=g).tolist()
        count, least = 3, 0.6
        apart = [
            [order[place] for place in places]
            for size in range(1, count + 1)
            for places in itertools.combinations(range(7), size)
            if all(
                float(distances[order[a], order[b]]) >= least for a, b in itertools.combinations(places, 2)
            )
        ]
        # Padded, so that a set comes before its own beginnings.
        first = min(apart, key=lambda chosen: [order.index(n) for n in chosen] + [7] * (count - len(chosen)))
        filled = first + [number for number in order if number not in first][: count - len(first)]
        assert promoted(order, distances, count, least) == filled


def test_few_candidates_are_all_taken() -> None:
    assert promoted([2, 0], torch.zeros(3, 3), 5) == [2, 0]
    assert promoted([2, 0], torch.zeros(3, 3), 0) == []
