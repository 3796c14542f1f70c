"""Keys of metrics: which are fractions, and the ranges of all."""

from __future__ import annotations

import pytest
import torch

from selmix.definitions import ClassRate, Definitions
from selmix.metric_keys import IN_OWN_UNITS, SIGNED, is_fraction, range_of
from selmix.metrics import METRICS, MetricContext, Predictions, evaluate_predictions


@pytest.mark.parametrize("seed", range(4))
def test_every_metric_with_a_range_lies_in_it(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(90) % 3
    predicted = torch.randint(0, 3, (90,), generator=generator)
    groups = torch.randint(0, 2, (90,), generator=generator)
    # Confident and wrong, as far as that goes.
    made = Predictions(labels, predicted, torch.full((90,), 0.99), groups)
    costs = ((-2.0, 30.0, 30.0), (30.0, -2.0, 30.0), (30.0, 30.0, -2.0))
    known = Definitions(
        recall_weights=(1.0, 2.0, 3.0), cost_matrix=costs, class_rates=(ClassRate("recall", 1, "dog"),)
    )
    values = evaluate_predictions(made, MetricContext(torch.tensor([200, 50, 5]), known, num_groups=2))
    of_scores = {key for key, metric in METRICS.items() if metric.by_scores}
    assert values.keys() >= (METRICS.keys() - of_scores) | {"recall/dog"}
    for key, value in values.items():
        limits = range_of(key)
        assert (limits is None) == (not is_fraction(key))
        if limits is not None:
            assert limits[0] <= value <= limits[1]
    # The costs of this matrix lie beyond any fraction.
    assert values["cost"] > 1.0
    assert METRICS.keys() >= IN_OWN_UNITS | SIGNED


def test_a_function_of_the_users_own_has_units_of_its_own() -> None:
    assert [is_fraction(key) for key in ("own:f", "package.own:f", "recall/a:b", "precision/x")] == [
        False, False, True, True,
    ]  # fmt: skip
