"""Dispatch of runs: hand them out, and decide what becomes of each, whichever executor runs them.

An executor takes assignments and passes reports to the recorder: :mod:`orchestrator.run.on_ray` on Ray,
:mod:`orchestrator.run.without_ray` without it. All decisions are made here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypedDict, TypeVar

from orchestrator.records.types import TrialRecord
from orchestrator.run.outcome import RunOutcome
from orchestrator.run.recorder import Recorder
from orchestrator.search.early_stopping import BestSoFar, EarlyStopping
from orchestrator.search.sources import Source
from trainables.baseline import BaselineJob, BaselineReport
from trainables.shared import Shared, Work

J = TypeVar("J")
T = TypeVar("T")

MAX_LOSSES = 3
"""Lost workers in a row, without a checkpoint in between, at which a run has failed."""

WorkerResources = dict[str, float]
"""``cpu`` and ``gpu`` of a worker."""


class Assignment(TypedDict):
    """One run, as :class:`trainables.host.RunHost` takes it.

    Attributes:
        trial_id: of the run.
        objective: name of the objective.
        seed: of the run.
        config: the flat settings.
        resume_from: address of a checkpoint; None to begin anew.
        takes: resources of a worker; None for those of all runs of the sweep.
    """

    trial_id: str
    objective: str
    seed: int
    config: dict[str, Any]
    resume_from: str | None
    takes: WorkerResources | None


class Executor(Protocol):
    """Executor of the heads of the base model, of screens, of runs and of baselines.

    Attributes:
        shared: data, models and rules that all runs share; it has start models once the heads are fitted.
    """

    shared: Shared

    def tasks(self, work: Work[J, T], jobs: Sequence[J], what: str) -> list[T]:
        """Do pieces of work, each with the resources of one worker, side by side where there is room.

        Args:
            work: function of what all runs share, of a piece, and of the GPUs of its worker or its share of one.
            jobs: the pieces.
            what: name of the work in messages.
        Returns:
            What it returned of each piece, in their order.
        Raises:
            Drained: the sweep drains.
            PreflightError: there is too little memory for a piece, or its worker is lost again and again.
        """

    def exclusive(self) -> WorkerResources | None:
        """Resources of a worker that has no neighbours; None where it has none, or can get no more."""

    def run(self, dispatcher: Dispatcher) -> None:
        """Run everything that a dispatcher hands out, until there is no more or the sweep drains."""

    def fit(self, jobs: Sequence[BaselineJob]) -> Iterator[tuple[BaselineJob, BaselineReport | RunOutcome]]:
        """Fit baselines, and yield each with its report or with its failure; ends early once the sweep drains."""


class Dispatcher:
    """Dispatcher of the runs of a source: opens each on record, hands it out, and decides what becomes of it.

    A run that lost its worker or node resumes from its last checkpoint. One that ran out of memory is run once more,
    exclusively: with nothing of Ray beside it. Both are handed out again before anything new. A run that dies while
    the sweep drains was killed with it, which is no failure: it resumes at the next launch.

    No method raises: an exception in one would end the whole of Tune. Errors are noted in the recorder.

    Args:
        source: of the runs.
        recorder: of the sweep.
        draining: returns True once the sweep is to stop.
        exclusive: returns the resources of a worker of an exclusive run; None where it can get no more than it has.
        stopping: decides which trials end early; None where all run to their end.
        then: called once every run of the source has ended: the source of the runs that follow, or None. Workers are
            kept meanwhile.
    """

    def __init__(
        self,
        source: Source,
        recorder: Recorder,
        draining: Callable[[], bool],
        exclusive: Callable[[], WorkerResources | None] = lambda: None,
        stopping: EarlyStopping | None = None,
        then: Callable[[], Source | None] = lambda: None,
    ) -> None:
        self.recorder, self.draining = recorder, draining
        self._source, self._exclusive, self._stopping = source, exclusive, stopping
        self._then = then
        self._under_way: dict[str, TrialRecord] = {}

    @property
    def under_way(self) -> int:
        """Number of runs that were handed out and have not ended: one of them may come back."""
        return len(self._under_way)

    def next(self) -> Assignment | None:
        """Hand out the next run; None where there is none: for good once no run is under way."""
        if self.draining():
            return None
        try:
            record = self._source.next()
            if record is None and not self._under_way:
                following, self._then = self._then(), lambda: None
                if following is not None:
                    self._source = following
                    record = following.next()
            if record is None:
                return None
            # Looked up at each start, because nodes may have come or gone since it ran out of memory.
            takes = self._exclusive() if record.alone else None
            self._under_way[record.trial_id] = self.recorder.open(record)
        except Exception as error:  # a boundary: see the docstring of the class
            self.recorder.problems.append(f"handing out the next run: {error!r}")
            return None
        checkpoint = record.checkpoint and self.recorder.folder.checkpoint_address(record.checkpoint)
        return Assignment(
            trial_id=record.trial_id, objective=record.objective, seed=record.seed, config=record.config,
            resume_from=checkpoint or None, takes=takes,
        )  # fmt: skip

    @property
    def stops_early(self) -> bool:
        """True if runs may end early: every report must be judged then."""
        return self._stopping is not None

    def judge(self, trial_id: str, reached: BestSoFar, finished: bool = False) -> bool:
        """True if a run is to end now, because it is behind its peers.

        Args:
            trial_id: of the run.
            reached: by its latest round.
            finished: True if it has ended by itself.
        """
        record = self._under_way.get(trial_id)
        if record is None or self._stopping is None:
            return False
        try:
            return self._stopping.stops(record, reached, finished)
        except Exception as error:  # a boundary: see the docstring of the class
            self.recorder.problems.append(f"judging {trial_id}: {error!r}")
            return False

    def end(self, trial_id: str, outcome: RunOutcome) -> None:
        """Decide what becomes of a run that ended; a second report of its end changes nothing.

        Args:
            trial_id: of the run.
            outcome: as the executor knows it.
        """
        record = self._under_way.pop(trial_id, None)
        if record is None or outcome.kind == "stopped":
            return
        if outcome.kind == "finished":
            self._tell(record, outcome.score, outcome.violation)
        elif outcome.kind == "pruned":
            self.recorder.on_pruned(trial_id, outcome)
            self._learn(record, lambda: self._source.prune(record))
        # The run failed by itself, which its last checkpoint has put on record: a value was not finite.
        elif record.state == "FAILED":
            self._tell(record, None)
        elif record.state == "RUNNING" and not self.draining():
            self._interrupted(record, outcome)
        # Otherwise the sweep drains, or the last checkpoint had arrived before the worker died, and nothing was lost:
        # the next launch tells the study the score of such a run, from its record.

    def _interrupted(self, record: TrialRecord, outcome: RunOutcome) -> None:
        if not self._resumes(record, outcome):
            self.recorder.on_failed(record.trial_id, outcome)
            self._tell(record, None)
            return
        # It stays exclusive, also when it is interrupted for another reason later.
        record.alone = record.alone or outcome.kind == "out_of_memory"
        self.recorder.on_interrupted(record.trial_id, outcome)
        self._source.give_back(record)

    def _resumes(self, record: TrialRecord, outcome: RunOutcome) -> bool:
        # This loss is not yet counted. A run that never gets to a checkpoint may well be what kills its workers.
        if outcome.kind == "worker_lost":
            return self.recorder.losses_in_a_row(record.trial_id) + 1 < MAX_LOSSES
        # Short of memory when exclusive, or with nothing more to get, it would run out again.
        if outcome.kind == "out_of_memory" and not record.alone:
            return self._exclusive() is not None
        return False

    def _tell(self, record: TrialRecord, score: float | None, violation: float = 0.0) -> None:
        self._learn(record, lambda: self._source.tell(record, score, violation))

    def _learn(self, record: TrialRecord, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception as error:  # a boundary: see the docstring of the class
            self.recorder.problems.append(f"telling the search the result of {record.trial_id}: {error!r}")
