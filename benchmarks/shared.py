"""Work that cases of one seed have in common, done once: heads by weight decay, and the course of uniform mixup."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from selmix.baselines import BaselineTask, last_layer
from selmix.metrics import Predictions, evaluate_predictions
from selmix.run.run import Run, inside_the_method
from selmix.statistics.selection import score
from selmix.weights import State, state_digest, tensor_digest

_Fit = tuple[Tensor, Tensor]


@contextmanager
def remembered_fits() -> Iterator[None]:
    """Within it a class-balanced logistic regression on the same samples is solved once.

    Which weight decay wins differs between metrics, the seven solutions do not.
    """
    solve = last_layer.balanced_logistic_regression
    solved: dict[tuple[str, float], _Fit] = {}

    def remembered(
        features: Tensor, labels: Tensor, num_classes: int, weight_decay: float, strata: Tensor | None = None
    ) -> _Fit:
        tags = (labels,) if strata is None else (labels, strata)
        key = (tensor_digest(features, *tags), weight_decay)
        if key not in solved:
            solved[key] = solve(features, labels, num_classes, weight_decay, strata)
        return solved[key]

    last_layer.balanced_logistic_regression = remembered
    try:
        yield
    finally:
        last_layer.balanced_logistic_regression = solve


@dataclass
class UniformCourses:
    """Uniform mixup looks at no objective: runs from one head differ in the round that their rule chooses only."""

    _rounds: dict[tuple[str, int], list[tuple[State, Predictions]]] = field(default_factory=dict)

    def state(self, task: BaselineTask) -> State:
        """What the baseline ``uniform_mixup`` gives for a task of one seed."""
        _, context, _ = inside_the_method(task.objective, task.selection, task.data)
        key = (state_digest(task.base.head), context.num_groups)
        if key not in self._rounds:
            self._rounds[key] = _course(task)
        rounds = self._rounds[key]
        ranks = [_rank(task, predictions) for _, predictions in rounds]
        return rounds[ranks.index(max(ranks))][0]


def _course(task: BaselineTask) -> list[tuple[State, Predictions]]:
    config = dataclasses.replace(task.winner_config, policy="uniform", diagnose=False)
    if config.patience_rounds is not None:
        raise ValueError("patience looks at the rule: runs with it have no course in common")
    run = Run(task.data, task.base, task.objective, config, task.seeds[0], task.selection)
    rounds: list[tuple[State, Predictions]] = []
    while not run.finished:
        run.step()
        state = {name: part.detach().cpu().clone() for name, part in run.view.model.state_dict().items()}
        select = task.data.select
        rounds.append(
            (state, Predictions.from_logits(select.labels, task.logits(state, select), select.groups))
        )
    if run.failed:
        raise FloatingPointError(f"seed {task.seeds[0]}: {run.stop_reason}")
    return rounds


def _rank(task: BaselineTask, predictions: Predictions) -> tuple[bool, float]:
    """As :attr:`selmix.run.run.BestRound.rank`."""
    rule = task.selection
    violation = rule.violation(evaluate_predictions(predictions, task.context))
    told = score(rule, predictions, task.context)
    return (violation == 0.0, told if violation == 0.0 else -violation)
