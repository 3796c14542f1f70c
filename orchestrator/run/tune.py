"""Searcher, callback, scheduler and stopper of Tune around a dispatcher: they pass events on and decide nothing.

Tune pickles them for a snapshot that nothing here reads: a copy is an inert object, so that no lock, thread or stream
has to be pickled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.run.execution import Dispatcher
from orchestrator.run.outcome import RunOutcome
from orchestrator.search.early_stopping import STEPS, VALUE, BestSoFar, Scheduler
from orchestrator.spec.sections import EarlyStoppingSection

Report = dict[str, Any]
"""A result as a trainable reports it to Tune."""


class InertSearcher(Searcher):
    """Copy of a searcher in Tune's snapshot, which suggests nothing."""

    def suggest(self, trial_id: str) -> Any:
        """Report that there are no more runs."""
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Ignore the end of a run.

        Args:
            trial_id: Tune's id of the run.
            result: its last report.
            error: True if it ended with an error.
        """

    # Tune calls `save` for its snapshots, and the base class demands both; our records hold the state.
    def save(self, checkpoint_path: str) -> None:
        """Save nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class RunSearcher(InertSearcher):
    """Searcher that suggests the runs of a dispatcher, within a concurrency limit.

    Args:
        dispatcher: of the runs.
        limit: returns the number of runs that may be under way at once.
    """

    def __init__(self, dispatcher: Dispatcher, limit: Callable[[], int]) -> None:
        super().__init__(metric=None, mode=None)
        self._dispatcher, self._limit = dispatcher, limit
        # Tune's id of an attempt -> our id of the run: one that resumes is a new trial to Tune.
        self._ours: dict[str, str] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return InertSearcher, ()

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **spec: Any) -> bool:
        """True: the searcher takes the settings, whatever they are.

        Args:
            metric: of Tune; not used.
            mode: of Tune; not used.
            config: search space of Tune; not used.
            **spec: of Tune's experiment; not used.
        """
        # Otherwise Tune demands a metric, and one report that lacks it would end the whole experiment.
        return True

    def suggest(self, trial_id: str) -> Any:
        """Suggest the next run.

        Args:
            trial_id: Tune's id, a new one at each call.
        Returns:
            The assignment; None to be called again later; ``Searcher.FINISHED`` at the end.
        """
        if self._dispatcher.draining():
            return Searcher.FINISHED
        # Before a run is opened: Tune never gives the same id again, and the run would be lost.
        if self._dispatcher.under_way >= self._limit():
            return None
        assignment = self._dispatcher.next()
        # FINISHED is for good, and a run that is under way may come back.
        if assignment is None:
            return None if self._dispatcher.under_way else Searcher.FINISHED
        self._ours[trial_id] = assignment["trial_id"]
        return assignment

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Pass the end of a run to the dispatcher.

        Args:
            trial_id: Tune's id of the run.
            result: its last report.
            error: True if it ended with an error.
        """
        # Tune calls the searcher first, and the callback a moment later with the error itself.
        if not error:
            self.end(trial_id, RunOutcome.of_report(result))

    def end(self, trial_id: str, outcome: RunOutcome) -> None:
        """Pass the outcome of a run to the dispatcher.

        Args:
            trial_id: Tune's id of the run.
            outcome: of the run.
        """
        # An end that was reported before has no id any more.
        ours = self._ours.pop(trial_id, None)
        if ours is not None:
            self._dispatcher.end(ours, outcome)


class InertCallback(Callback):
    """Copy of a callback in Tune's snapshot, which does nothing."""


class RunCallback(Callback):
    """Callback that passes reports and checkpoints to the recorder, and errors to the dispatcher.

    Args:
        dispatcher: of the runs.
        searcher: that suggested the runs.
        method: of early stopping; empty without it.
    """

    def __init__(self, dispatcher: Dispatcher, searcher: RunSearcher, method: str = "") -> None:
        self._recorder, self._searcher, self._method = dispatcher.recorder, searcher, method

    def __reduce__(self) -> tuple[Any, ...]:
        return InertCallback, ()

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Report, **info: Any) -> None:
        """Record a round.

        Args:
            iteration: of Tune's loop.
            trials: all of Tune's trials.
            trial: that reported.
            result: the report.
            **info: not used.
        """
        self._recorder.on_round(trial.config["trial_id"], result)
        # A scheduler that stops a run marks its report as the last one; the trainable knows nothing of it.
        if self._method and result["done"] and not result["finished"]:
            # Before Tune acts on it: from here on the run is on record as stopped, whoever dies. It resumes never.
            result["should_checkpoint"] = False
            self._searcher.end(trial.trial_id, RunOutcome.pruned(result, self._method))

    def on_checkpoint(
        self, iteration: int, trials: Any, trial: Any, checkpoint: tune.Checkpoint, **info: Any
    ) -> None:
        """Record a checkpoint that is on storage.

        Args:
            iteration: of Tune's loop.
            trials: all of Tune's trials.
            trial: that saved it.
            checkpoint: on storage.
            **info: not used.
        """
        self._recorder.on_checkpoint(trial.config["trial_id"], checkpoint.path)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Pass the error of a run to the dispatcher.

        Args:
            iteration: of Tune's loop.
            trials: all of Tune's trials.
            trial: that ended with an error.
            **info: not used.
        """
        self._searcher.end(trial.trial_id, RunOutcome.of_trial(trial))


def peers(section: EarlyStoppingSection, most_steps: int) -> Scheduler:
    """Scheduler of Tune that compares the trials of a study.

    Args:
        section: of the sweep file.
        most_steps: largest number of steps that a trial may have.
    """
    grace = section.grace(most_steps)
    if section.method == "median":
        # Without end: a trial that has too few peers would else be paused for the sake of waiting ones.
        time_slice: Any = math.inf
        rule: Scheduler = MedianStoppingRule(
            time_attr=STEPS, metric=VALUE, mode="max", grace_period=grace,
            min_samples_required=section.min_samples, min_time_slice=time_slice,
        )  # fmt: skip
        return rule
    # A trial ends by itself; with `stop_last_trials` a report that passes two milestones would later enter the lower
    # one, with a value of more steps.
    asha: Scheduler = ASHAScheduler(
        time_attr=STEPS, metric=VALUE, mode="max", max_t=max(most_steps, grace), grace_period=grace,
        reduction_factor=section.reduction_factor, stop_last_trials=False,
    )  # fmt: skip
    return asha


class RunScheduler(FIFOScheduler):
    """Scheduler that starts runs in their order, and ends those that the dispatcher judges to be behind.

    Args:
        dispatcher: of the runs.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dispatcher = dispatcher

    def __reduce__(self) -> tuple[Any, ...]:
        return FIFOScheduler, ()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Report) -> str:
        """Judge a run by a report.

        Args:
            tune_controller: of Tune; not used.
            trial: that reported.
            result: the report, its keys flattened.
        Returns:
            One of Tune's decisions.
        """
        ends = self._judge(trial, result)
        return TrialScheduler.STOP if ends else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Report) -> None:
        """Let its peers know the last report of a run, which Tune shows to no other method.

        Args:
            tune_controller: of Tune; not used.
            trial: that ended.
            result: its last report, its keys flattened.
        """
        # A run that a drain ends before its first report has none.
        if result.get("finished", False):
            self._judge(trial, result)

    def _judge(self, trial: Any, result: Report) -> bool:
        # A value that was not finite ended the run before its evaluation.
        if "row/steps" not in result:
            return False
        reached = BestSoFar(result["row/steps"], result["best/score"], result["best/violation"])
        return self._dispatcher.judge(trial.config["trial_id"], reached, result["finished"])


class InertStopper(Stopper):
    """Copy of a stopper in Tune's snapshot, which stops nothing."""

    def __call__(self, trial_id: str, result: Report) -> bool:
        return False

    def stop_all(self) -> bool:
        """False: a copy knows no sweep that drains."""
        return False


class DrainStopper(InertStopper):
    """Stopper that ends the whole experiment once the sweep drains.

    Args:
        draining: returns True once the sweep drains.
    """

    def __init__(self, draining: Callable[[], bool]) -> None:
        self._draining = draining

    def __reduce__(self) -> tuple[Any, ...]:
        return InertStopper, ()

    def stop_all(self) -> bool:
        """True once the sweep drains."""
        return self._draining()
