"""Points of a screen, generation by generation, and the configurations that they stand for on frozen features."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from orchestrator.records.types import Settings
from orchestrator.search.space import before_the_best_head, default_point, distributions, settings
from orchestrator.spec.schema import SweepSpec
from orchestrator.spec.sections import OF_THE_NETWORK
from selmix.config import FinetuneConfig

# Beside the sweep's seed and a number of a trial, so that no generation repeats the stream of a trial.
_SCREEN = 0x5C12EE17
AGAIN = 10
"""Draws per point that is asked for or there, after which a space is taken to have no more."""


def screened(spec: SweepSpec) -> dict[str, BaseDistribution]:
    """Searched parameters that act on a head, by name."""
    return {name: each for name, each in distributions(spec).items() if name not in OF_THE_NETWORK}


def sizes(num_configs: int, generations: int) -> list[int]:
    """Configurations of each generation: as even as can be, the larger ones first."""
    generations = min(generations, num_configs)
    least, more = divmod(num_configs, generations)
    return [least + (number < more) for number in range(generations)]


def next_points(
    spec: SweepSpec, count: int, told: Sequence[tuple[Mapping[str, Any], float | None, float]]
) -> list[Settings]:
    """The points of the next generation; the defaults are the first point of the first one.

    The first generation is drawn at random, later ones by TPE from all results so far, with the points of the same
    generation taken for bad meanwhile, so that they keep apart. No configuration comes twice.

    Args:
        spec: of the sweep.
        count: points; fewer are returned where the space has no more, or hides them from ten draws each.
        told: points so far, each with its score, None where it failed, and by how much it misses the bounds.
    """
    space, first = screened(spec), default_point(spec)
    seed = int(np.random.SeedSequence([spec.search.seed, _SCREEN, len(told)]).generate_state(1)[0])
    sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if told:
            sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for point, score, violation in told:
            study.add_trial(optuna.trial.create_trial(
                state=TrialState.FAIL if score is None else TrialState.COMPLETE, value=score,
                params={name: point[name] for name in space}, distributions=space,
                constraints={"violation": violation},
            ))  # fmt: skip
        asked = [] if told else [dict(first)]
        seen = {_run_of(spec, point) for point in (*asked, *(point for point, _, _ in told))}
        # Where a few points are all that there are, one that is drawn again is screened once.
        for _ in range(AGAIN * int(min(count, points_of(space)))):
            if len(asked) == count:
                break
            point = first | study.ask(space).params
            run = _run_of(spec, point)
            if run not in seen:
                asked.append(point)
                seen.add(run)
    return asked


def most_configs(spec: SweepSpec) -> int:
    """Configurations that a screen has at most: as many as the file asks for, or as its space has points."""
    if spec.screen is None:
        raise ValueError("screen: the sweep must have one")
    return int(min(spec.screen.num_configs, points_of(screened(spec))))


def points_of(space: Mapping[str, BaseDistribution]) -> float:
    """Number of points of a space; infinite where a parameter has a range of real numbers."""
    return math.prod(_values_of(each) for each in space.values())


def _values_of(distribution: BaseDistribution) -> float:
    if distribution.single():
        return 1
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, IntDistribution | FloatDistribution) and distribution.step is not None:
        return 1 + round((distribution.high - distribution.low) / distribution.step)
    return math.inf


def _run_of(spec: SweepSpec, point: Mapping[str, Any]) -> tuple[Any, ...]:
    """Settings of a point's run: equal ones are one configuration, however the file writes its numbers."""
    return tuple(on_features(spec, point).flat().values())


def on_features(spec: SweepSpec, point: Mapping[str, Any]) -> FinetuneConfig:
    """Settings of a point on frozen features.

    The best head of the rung is not known yet: what starts from it in the search starts from the balanced one here.

    Args:
        spec: of the sweep.
        point: searched parameter -> value.
    """
    return replace(
        before_the_best_head(settings(spec, point)), mixup_layer="features", second="labelled", augment="none",
        precision="float32", channels_last=False, accumulate=1, diagnose=False,
    )  # fmt: skip
