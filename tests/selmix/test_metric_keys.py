"""Keys of metrics: which are fractions."""

from __future__ import annotations

import pytest
import torch

from selmix.definitions import ClassRate, Definitions
from selmix.metric_keys import IN_OWN_UNITS, is_fraction
from selmix.metrics import METRICS, MetricContext, Predictions, evaluate_predictions


@pytest.mark.parametrize("seed", range(4))
def test_every_metric_that_is_called_a_fraction_lies_in_0_and_1(seed: int) -> None:
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
    assert values.keys() >= METRICS.keys() | {"recall/dog"}
    assert {key for key in values if is_fraction(key)} == {
        key for key, value in values.items() if 0.0 <= value <= 1.0
    }
    assert METRICS.keys() >= IN_OWN_UNITS
