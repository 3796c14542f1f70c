"""Keys of metrics: which are fractions, and between which ends the values lie."""

from __future__ import annotations

import math

import pytest
import torch

from selmix.definitions import ClassRate, Definitions
from selmix.metric_keys import AGREEMENTS, IN_OWN_UNITS, ends_of, is_fraction
from selmix.metrics import METRICS, MetricContext, Predictions, evaluate_predictions, metric_named
from selmix.statistics.constructions import construction_of
from selmix.statistics.selection import Constraint, SelectionRule


@pytest.mark.parametrize("seed", range(4))
def test_every_metric_with_a_range_lies_in_it(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(90) % 3
    predicted = torch.randint(0, 3, (90,), generator=generator)
    groups = torch.randint(0, 2, (90,), generator=generator)
    # Confident and wrong, as far as that goes.
    logs = torch.log_softmax(8.0 * torch.eye(3, dtype=torch.float64)[predicted], dim=1)
    made = Predictions(labels, predicted, torch.full((90,), 0.99), groups, logs)
    costs = ((-2.0, 30.0, 30.0), (30.0, -2.0, 30.0), (30.0, 30.0, -2.0))
    known = Definitions(
        recall_weights=(1.0, 2.0, 3.0), cost_matrix=costs, class_rates=(ClassRate("recall", 1, "dog"),)
    )
    values = evaluate_predictions(made, MetricContext(torch.tensor([200, 50, 5]), known, num_groups=2))
    assert values.keys() >= METRICS.keys() | {"recall/dog"}
    outside = {key for key, value in values.items() if not 0.0 <= value <= 1.0}
    assert {"cost", "log_loss", "brier_score"} <= outside <= IN_OWN_UNITS
    assert METRICS.keys() >= IN_OWN_UNITS
    for key, value in values.items():
        least, most = ends_of(key)
        assert least <= value <= most, key
        assert is_fraction(key) == (ends_of(key) == (0.0, 1.0)), key


def test_an_agreement_worse_than_chance_is_negative() -> None:
    labels = torch.arange(90) % 3
    made = Predictions(labels, (labels + 1) % 3, torch.full((90,), 0.99))
    values = evaluate_predictions(made, MetricContext(torch.ones(3)))
    assert {key for key, value in values.items() if value < 0} == AGREEMENTS


def test_a_function_of_the_users_own_has_units_and_ends_of_its_own() -> None:
    assert [is_fraction(key) for key in ("own:f", "package.own:f", "recall/a:b", "precision/x")] == [
        False, False, True, True,
    ]  # fmt: skip
    assert ends_of("own:f") == (-math.inf, math.inf)


def test_a_colon_in_the_name_of_a_class_makes_no_function_of_it() -> None:
    rate = ClassRate("recall", 1, "dog: small")
    definitions = Definitions(class_rates=(rate,))
    assert metric_named(rate.key, definitions).key == "recall/dog: small"
    with pytest.raises(KeyError):
        construction_of(rate.key)  # a proportion with exact limits, no function of the user's own
    bound = Constraint("recall", at_least=0.5, label=1, class_name="dog: small")
    rule = SelectionRule("min_recall", constraints=(bound,))
    assert rule.definitions.own_metrics == ()
