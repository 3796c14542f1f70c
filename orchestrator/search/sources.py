"""Sources of runs: studies that propose points, or a list of runs that are known beforehand."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from orchestrator.records.types import Settings, TrialRecord
from orchestrator.search.early_stopping import BestSoFar
from orchestrator.search.study import ObjectiveStudy


class Source(Protocol):
    """A source of runs."""

    def next(self) -> TrialRecord | None:
        """The next run to start; None: there are no more."""

    def give_back(self, record: TrialRecord) -> None:
        """Take back a run that resumes from its last checkpoint: it is the next one to start."""

    def tell(self, record: TrialRecord, score: float | None, violation: float) -> None:
        """Learn from a run that ended.

        Args:
            record: of the run.
            score: to maximise; None where the run failed.
            violation: by how much the constraints are missed, 0.0 where they hold.
        """

    def prune(self, record: TrialRecord) -> None:
        """Learn from a run that was stopped early, as far as it came."""


class ListSource:
    """Runs that are known beforehand: replicates.

    Args:
        records: in the order in which they start.
    """

    def __init__(self, records: Iterable[TrialRecord]) -> None:
        self._records = deque(records)

    def next(self) -> TrialRecord | None:
        """The next one of the list."""
        return self._records.popleft() if self._records else None

    def give_back(self, record: TrialRecord) -> None:
        """Put it first."""
        self._records.appendleft(record)

    def tell(self, record: TrialRecord, score: float | None, violation: float) -> None:
        """Do nothing: no search learns from a replicate."""

    def prune(self, record: TrialRecord) -> None:
        """Do nothing, likewise."""


class StudySource:
    """Trials of the search: first those that an earlier launch left unfinished, then new points, objectives in turn.

    Args:
        studies: by name.
        num_trials: of each.
        unfinished: records to resume.
        build: (name of the study, number, parameters) -> a new record.
        may_begin: False once too many trials have failed: then no new one begins.
        curve: record of a trial -> its best round so far after each of its rounds; asked for those that are stopped
            early.
    """

    def __init__(
        self,
        studies: Mapping[str, ObjectiveStudy],
        num_trials: int,
        unfinished: Iterable[TrialRecord],
        build: Callable[[str, int, Settings], TrialRecord],
        may_begin: Callable[[], bool],
        curve: Callable[[TrialRecord], Sequence[BestSoFar]] = lambda _: (),
    ) -> None:
        self._studies, self._num_trials, self._build = studies, num_trials, build
        self._may_begin, self._curve = may_begin, curve
        self._unfinished = deque(unfinished)

    def next(self) -> TrialRecord | None:
        """An unfinished trial, or a new point of the study that has the fewest."""
        # Before the failure budget is looked at: these have begun already.
        if self._unfinished:
            return self._unfinished.popleft()
        if not self._may_begin():
            return None
        # The study with the fewest trials, so that a sweep that is stopped early has searched all objectives alike.
        counts = {name: len(study.trials()) for name, study in self._studies.items()}
        study = min(counts, key=lambda name: counts[name])
        if counts[study] >= self._num_trials:
            return None
        number, parameters = self._studies[study].ask()
        return self._build(study, number, parameters)

    def give_back(self, record: TrialRecord) -> None:
        """Put it first."""
        self._unfinished.appendleft(record)

    def tell(self, record: TrialRecord, score: float | None, violation: float) -> None:
        """Tell the study of the trial."""
        self._studies[record.study].tell(record.number, score, violation)

    def prune(self, record: TrialRecord) -> None:
        """Tell the study of the trial, with its values so far."""
        prune(self._studies[record.study], record, self._curve(record))


def prune(study: ObjectiveStudy, record: TrialRecord, curve: Sequence[BestSoFar]) -> None:
    """Tell a study that a trial was stopped early.

    Args:
        study: of the trial.
        record: of the trial.
        curve: its best round so far after each of its rounds.
    """
    values = {reached.steps: reached.score for reached in curve}
    study.prune(record.number, values, curve[-1].violation if curve else 0.0)
