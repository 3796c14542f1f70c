"""The search space: a sweep file's parameters as Optuna distributions, and a point of it as settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from orchestrator.records.types import Settings
from orchestrator.spec.schema import SweepSpec
from orchestrator.spec.sections import ParameterSection
from selmix.config import (
    DEFAULT_CONFUSION_SMOOTHING,
    DEFAULT_TEMPERATURE,
    WHOLE_NUMBERS,
    FinetuneConfig,
)


def distributions(spec: SweepSpec) -> dict[str, BaseDistribution]:
    """Searched parameters by name."""
    return {name: _distribution(name, parameter) for name, parameter in spec.searched.items()}


def _distribution(name: str, parameter: ParameterSection) -> BaseDistribution:
    if parameter.values is not None:
        return CategoricalDistribution(parameter.values)
    kind = parameter.distribution or "uniform"
    # A checked range has both ends; `or` only narrows the type.
    low, high = float(parameter.min or 0.0), float(parameter.max or 0.0)
    if name in WHOLE_NUMBERS or kind == "int_uniform":
        step = int(parameter.q) if kind == "q_uniform" and parameter.q else 1
        return IntDistribution(math.ceil(low), math.floor(high), log="log" in kind, step=step)
    # Optuna has no steps on a logarithmic scale: q_log_uniform_values is rounded in `settings`.
    step_of = parameter.q if kind == "q_uniform" else None
    return FloatDistribution(low, high, log="log" in kind, step=step_of)


def settings(
    spec: SweepSpec, point: Mapping[str, Any], arm: Mapping[str, Any] | None = None
) -> FinetuneConfig:
    """The settings at a point of the space, with the fixed parameters of the file.

    Args:
        spec: of the sweep.
        point: searched parameter -> value; one that is left out takes its default.
        arm: compared parameter -> its value in this arm; None: nothing is compared.
    """
    chosen = dict(spec.fixed) | dict(arm or {})
    for name, value in point.items():
        parameter = spec.searched[name]
        if parameter.distribution == "q_log_uniform_values" and parameter.q is not None:
            value = _rounded(value, parameter)
            # Whole already, but a float, which counted settings refuse.
            value = int(value) if name in WHOLE_NUMBERS else value
        chosen[name] = value
    return FinetuneConfig(**chosen)


def before_the_best_head(config: FinetuneConfig) -> FinetuneConfig:
    """Settings as they can be before a rung has handed up its best head: the balanced one stands for it."""
    return replace(config, start="balanced_head") if config.start == "best_head" else config


def _rounded(value: float, parameter: ParameterSection) -> float:
    low, high, q = float(parameter.min or 0.0), float(parameter.max or 0.0), float(parameter.q or 1.0)
    # W&B's definition of the distribution: multiples of q. Outside the range, the next multiple inside it.
    rounded = round(value / q) * q
    if rounded < low:
        rounded += q
    return rounded - q if rounded > high else rounded


def default_point(spec: SweepSpec) -> Settings:
    """The defaults in the space: the point of trial 0.

    A default outside a searched range is moved to its nearest value; of a list without the default, numbers go to
    the nearest, anything else to the first.
    """
    # Settings that the defaults leave to another one, at the value that they have where a file names them.
    named = {"temperature": DEFAULT_TEMPERATURE, "confusion_smoothing": DEFAULT_CONFUSION_SMOOTHING}
    defaults = FinetuneConfig().flat() | named
    return {
        name: _nearest(defaults[name], distribution) for name, distribution in distributions(spec).items()
    }


def _nearest(default: Any, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        if default in distribution.choices:
            return default
        # Only numbers can be near to each other; names cannot.
        numbers = [c for c in distribution.choices if isinstance(c, int | float)]
        if isinstance(default, int | float) and numbers:
            return min(numbers, key=lambda value: abs(value - default))
        return distribution.choices[0]
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        raise TypeError(f"no such distribution: {distribution!r}")
    # None switches a setting off; no number is nearest to that.
    if default is None:
        return distribution.low
    value = min(max(default, distribution.low), distribution.high)
    # Optuna takes only values that lie whole steps above the low end.
    if distribution.step is not None:
        value = distribution.low + round((value - distribution.low) / distribution.step) * distribution.step
    return int(value) if isinstance(distribution, IntDistribution) else value


def grid(spec: SweepSpec) -> list[Settings] | None:
    """The points of ``method: grid`` in order, the defaults' first; None for the other methods."""
    if spec.search.method != "grid":
        return None
    names = list(spec.searched)
    lists = [spec.searched[name].values or () for name in names]
    points = [dict(zip(names, values, strict=True)) for values in itertools.product(*lists)]
    # Trial 0 is the defaults under every method: the winner is compared with them.
    first = default_point(spec)
    return [first, *(point for point in points if point != first)]


def most_steps(spec: SweepSpec) -> int:
    """Largest number of SGD steps that a trial of the sweep may have."""
    if "steps" in spec.compare:
        return int(max(spec.compare["steps"]))
    parameter = spec.parameters.get("steps")
    if parameter is None:
        return FinetuneConfig().steps
    if parameter.values is not None:
        return int(max(parameter.values))
    return int(parameter.value if parameter.max is None else parameter.max)


def trials_per_objective(spec: SweepSpec) -> int:
    """``search.num_trials``, or the size of a grid that is smaller."""
    points = grid(spec)
    return spec.search.num_trials if points is None else min(spec.search.num_trials, len(points))
