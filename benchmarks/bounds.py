"""Whether a bound on a metric holds on test, as far as the test samples can tell."""

from __future__ import annotations

from typing import Any

from selmix.metrics import MetricContext, Predictions
from selmix.statistics.intervals import metric_interval
from selmix.statistics.selection import Constraint


def bound_on_test(constraint: Constraint, predictions: Predictions, context: MetricContext) -> dict[str, Any]:
    """The metric with its 95 % interval (``metric_interval``), and what that says of the bound.

    ``holds``: the value meets the bound. ``within error``: it does not, but a value within the interval does.
    ``missed``: the whole interval lies on the wrong side.
    """
    estimate = metric_interval(constraint.key, predictions, context)
    if constraint.violation({constraint.key: estimate.value}) == 0.0:
        says = "holds"
    else:
        best = estimate.high if constraint.at_least is not None else estimate.low
        says = "within error" if constraint.violation({constraint.key: best}) == 0.0 else "missed"
    return {
        "metric": constraint.key, "kind": "at_least" if constraint.at_least is not None else "at_most",
        "bound": constraint.bound, "value": estimate.value, "low": estimate.low, "high": estimate.high, "says": says,
    }  # fmt: skip
