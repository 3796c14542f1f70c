"""Tune's searcher, callback and stopper around a dispatcher: they carry words between the two and decide nothing.

Tune pickles them for a snapshot that nothing here reads: a copy is an inert object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from orchestrator.run.execution import Dispatcher
from orchestrator.run.outcome import RunOutcome


class InertSearcher(Searcher):
    """What is left of a searcher in Tune's snapshot."""

    def suggest(self, trial_id: str) -> Any:
        """No more runs."""
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing to do."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class RunSearcher(InertSearcher):
    """Suggests the runs of a dispatcher, as many at once as the limit says.

    Args:
        dispatcher: of the runs.
        limit: runs that may be under way at once now.
    """

    def __init__(self, dispatcher: Dispatcher, limit: Callable[[], int]) -> None:
        super().__init__(metric=None, mode=None)
        self._dispatcher, self._limit = dispatcher, limit
        self._ours: dict[str, str] = {}  # Tune's id of a run -> ours

    def __reduce__(self) -> tuple[Any, ...]:
        return InertSearcher, ()

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **spec: Any) -> bool:
        """True: neither metric nor mode is Tune's business here."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next run; None: ask again later, because one that is under way may come back."""
        if self._dispatcher.draining():
            return Searcher.FINISHED
        if self._dispatcher.under_way >= self._limit():
            return None
        assignment = self._dispatcher.next()
        if assignment is None:
            return None if self._dispatcher.under_way else Searcher.FINISHED
        self._ours[trial_id] = assignment["trial_id"]
        return assignment

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """A run ended by itself; of one that ended with an error the callback knows more, a moment later."""
        if not error:
            self.end(trial_id, RunOutcome.of_report(result))

    def end(self, trial_id: str, outcome: RunOutcome) -> None:
        """Carry the end of a run to the dispatcher."""
        ours = self._ours.pop(trial_id, None)
        if ours is not None:
            self._dispatcher.end(ours, outcome)


class InertCallback(Callback):
    """What is left of a callback in Tune's snapshot."""


class RunCallback(Callback):
    """Carries reports to the recorder, and errors to the searcher's dispatcher.

    Args:
        dispatcher: of the runs.
        searcher: that suggested them.
    """

    def __init__(self, dispatcher: Dispatcher, searcher: RunSearcher) -> None:
        self._recorder, self._searcher = dispatcher.recorder, searcher

    def __reduce__(self) -> tuple[Any, ...]:
        return InertCallback, ()

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A round is done."""
        self._recorder.on_round(trial.config["trial_id"], result)

    def on_checkpoint(
        self, iteration: int, trials: Any, trial: Any, checkpoint: tune.Checkpoint, **info: Any
    ) -> None:
        """A checkpoint is on storage."""
        self._recorder.on_checkpoint(trial.config["trial_id"], checkpoint.path)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A run broke."""
        self._searcher.end(trial.trial_id, RunOutcome.of_trial(trial))


class InertStopper(Stopper):
    """What is left of a stopper in Tune's snapshot."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """False: it knows of no sweep that drains."""
        return False


class DrainStopper(InertStopper):
    """Ends the whole experiment once the sweep drains.

    Args:
        draining: True once it does.
    """

    def __init__(self, draining: Callable[[], bool]) -> None:
        self._draining = draining

    def __reduce__(self) -> tuple[Any, ...]:
        return InertStopper, ()

    def stop_all(self) -> bool:
        """True once the sweep drains."""
        return self._draining()
