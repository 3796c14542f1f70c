"""Handing out runs and deciding what becomes of each, whoever executes them.

An executor takes assignments and carries reports to the recorder; :mod:`orchestrator.run.on_ray` does so on Ray,
:mod:`orchestrator.run.in_process` in this process. Everything that is decided is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypedDict

from orchestrator.records.types import TrialRecord
from orchestrator.run.outcome import RunOutcome
from orchestrator.run.recorder import Recorder
from orchestrator.search.sources import Source
from trainables.baseline import BaselineJob, BaselineReport

MAX_LOSSES = 3
"""Losses in a row, without a checkpoint in between, after which a run has failed."""

Takes = dict[str, float]
"""``cpu`` and ``gpu`` of a worker."""


class Assignment(TypedDict):
    """One run, as :class:`trainables.host.RunHost` takes it.

    ``takes`` is what a worker takes where that is not what all runs take; ``resume_from`` a checkpoint.
    """

    trial_id: str
    objective: str
    seed: int
    config: dict[str, Any]
    resume_from: str | None
    takes: Takes | None


class Executor(Protocol):
    """Runs what it is handed."""

    def run(self, dispatcher: Dispatcher) -> None:
        """Run everything that a dispatcher hands out, until there is no more or the sweep drains."""

    def fit(self, jobs: Sequence[BaselineJob]) -> Iterator[tuple[BaselineJob, BaselineReport | RunOutcome]]:
        """Fit baselines; yields each with its report, or with how it failed. Ends early once the sweep drains."""


class Dispatcher:
    """Hands out the runs of a source, opened on record, and decides what becomes of each.

    A run that lost its worker or node resumes from its last checkpoint, and one that ran out of memory is run once
    more with nothing of Ray beside it: both are handed out again, before anything new. While the sweep drains, a run
    that dies was killed with it and is nobody's failure: it resumes another time.

    No method raises: an exception in one would end the whole of Tune. What goes wrong is noted in the recorder.

    Args:
        source: of the runs.
        recorder: of the sweep.
        draining: True once the sweep is to stop.
        exclusive: what a worker takes to have no neighbours; None where it can get no more than it takes.
    """

    def __init__(
        self,
        source: Source,
        recorder: Recorder,
        draining: Callable[[], bool],
        exclusive: Callable[[], Takes | None] = lambda: None,
    ) -> None:
        self.recorder, self.draining = recorder, draining
        self._source, self._exclusive = source, exclusive
        self._under_way: dict[str, TrialRecord] = {}

    @property
    def under_way(self) -> int:
        """Runs that were handed out and have not ended: one of them may come back."""
        return len(self._under_way)

    def next(self) -> Assignment | None:
        """The next run; None: there is none now, and none any more once no run is under way."""
        if self.draining():
            return None
        try:
            record = self._source.next()
            if record is None:
                return None
            takes = self._exclusive() if record.alone else None
            self._under_way[record.trial_id] = self.recorder.open(record)
        except Exception as error:  # see the docstring of the class
            self.recorder.problems.append(f"next run: {error!r}")
            return None
        checkpoint = record.checkpoint and self.recorder.folder.checkpoint_address(record.checkpoint)
        return Assignment(
            trial_id=record.trial_id, objective=record.objective, seed=record.seed, config=record.config,
            resume_from=checkpoint or None, takes=takes,
        )  # fmt: skip

    def end(self, trial_id: str, outcome: RunOutcome) -> None:
        """Decide what becomes of a run that ended; a second word about it changes nothing."""
        record = self._under_way.pop(trial_id, None)
        if record is None or outcome.kind == "stopped":
            return
        if outcome.kind == "finished":
            self._tell(record, outcome.score, outcome.violation)
        elif record.state == "FAILED":  # its last checkpoint says so itself: a value was not finite
            self._tell(record, None)
        elif record.state == "RUNNING" and not self.draining():
            self._broken(record, outcome)
        # Otherwise its last checkpoint had arrived before its worker died, which took nothing with it; the study is
        # told of such a run at the next launch, from the record.

    def _broken(self, record: TrialRecord, outcome: RunOutcome) -> None:
        if not self._resumes(record, outcome):
            self.recorder.on_failed(record.trial_id, outcome)
            self._tell(record, None)
            return
        record.alone = record.alone or outcome.kind == "out_of_memory"
        self.recorder.on_lost(record.trial_id, outcome)
        self._source.give_back(record)

    def _resumes(self, record: TrialRecord, outcome: RunOutcome) -> bool:
        if outcome.kind == "lost":
            return self.recorder.losses_in_a_row(record.trial_id) + 1 < MAX_LOSSES
        if outcome.kind == "out_of_memory" and not record.alone:
            return self._exclusive() is not None
        return False

    def _tell(self, record: TrialRecord, score: float | None, violation: float = 0.0) -> None:
        try:
            self._source.tell(record, score, violation)
        except Exception as error:  # see the docstring of the class
            self.recorder.problems.append(f"tell {record.trial_id}: {error!r}")
