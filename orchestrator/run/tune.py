"""Tune's searcher and callback: they hand runs out and carry reports to the book, and decide nothing else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from orchestrator.records.folder import TrialRecord
from orchestrator.records.identity import config_hash
from orchestrator.run.faults import Failure, Fault
from orchestrator.run.recorder import TrialBook
from orchestrator.search.study import ObjectiveStudy


class Source(Protocol):
    """Where runs come from."""

    def next(self) -> TrialRecord | None:
        """The next run to start; None: there are no more."""

    def give_back(self, record: TrialRecord) -> None:
        """A run that goes on, from its last checkpoint, as soon as there is room."""

    def tell(self, record: TrialRecord, best: dict[str, Any] | None) -> None:
        """How a run ended; ``best`` is None where it failed."""


class ListSource:
    """Runs that are known beforehand: replicates."""

    def __init__(self, records: Iterable[TrialRecord]) -> None:
        self._records = deque(records)

    def next(self) -> TrialRecord | None:
        return self._records.popleft() if self._records else None

    def give_back(self, record: TrialRecord) -> None:
        self._records.appendleft(record)

    def tell(self, record: TrialRecord, best: dict[str, Any] | None) -> None:
        """Nothing learns from a replicate."""


class StudySource:
    """Trials of the search: first what a killed launch left unfinished, then new points, objectives in turn.

    Args:
        studies: the studies by name. num_trials: of each.
        unfinished: records to go on with. build: (name of the study, number, parameters) -> a new record.
        most_failed: after more failures than these no new trial is begun.
    """

    def __init__(
        self,
        studies: dict[str, ObjectiveStudy],
        num_trials: int,
        unfinished: Iterable[TrialRecord],
        build: Callable[[str, int, dict[str, Any]], TrialRecord],
        most_failed: int,
    ) -> None:
        self._studies, self._num_trials, self._build = studies, num_trials, build
        self._failures_left = most_failed
        self._unfinished = deque(unfinished)

    def next(self) -> TrialRecord | None:
        if self._unfinished:
            return self._unfinished.popleft()
        if self._failures_left < 0:
            return None
        counts = {name: len(study.trials()) for name, study in self._studies.items()}
        study = min(counts, key=lambda name: counts[name])
        if counts[study] >= self._num_trials:
            return None
        number, parameters = self._studies[study].ask()
        return self._build(study, number, parameters)

    def give_back(self, record: TrialRecord) -> None:
        self._unfinished.appendleft(record)

    def tell(self, record: TrialRecord, best: dict[str, Any] | None) -> None:
        self._failures_left -= best is None
        score = None if best is None else best["score"]
        self._studies[record.study].tell(record.number, score, 0.0 if best is None else best["violation"])


MOST_LOST = 3
"""How often in a row a run may lose its worker without having got to a checkpoint in between."""


class RunSearcher(Searcher):
    """Hands the runs of a source to Tune, opened in the book before they start.

    A run that lost its worker or node goes on from its last checkpoint, and one that ran out of memory is run once
    more with nothing of Ray beside it: both are handed out again, before anything new.

    Tune pickles searchers for a snapshot that nothing here reads: a copy is inert. While the sweep drains, a run that
    dies was killed with it and is nobody's failure: it goes on another time.

    Args:
        room: how many runs may be alive at once now.
        alone: what a run takes to have no neighbours (``cpu`` and ``gpu`` of a worker); None where it has none.
    """

    def __init__(
        self,
        source: Source,
        book: TrialBook,
        draining: Callable[[], bool],
        room: Callable[[], int],
        alone: Callable[[], dict[str, float] | None] = lambda: None,
    ) -> None:
        super().__init__(metric=None, mode=None)
        self._draining: Callable[[], bool] | None = draining
        self._source: Source | None = source
        self._book: TrialBook | None = book
        self._room: Callable[[], int] | None = room
        self._alone: Callable[[], dict[str, float] | None] | None = alone
        self._given: dict[str, TrialRecord] = {}

    def __getstate__(self) -> dict[str, Any]:
        inert = dict.fromkeys(("_source", "_book", "_draining", "_room", "_alone"))
        return vars(self) | inert | {"_given": {}}

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **spec: Any) -> bool:
        """True: neither metric nor mode is Tune's business here."""
        return True

    def suggest(self, trial_id: str) -> Any:
        if self._source is None or self._book is None or self._room is None:
            return Searcher.FINISHED
        if self._draining is None or self._draining():
            return Searcher.FINISHED
        try:
            if len(self._given) >= self._room():
                return None
            record = self._source.next()
            if record is None:  # one that is alive may come back
                return None if self._given else Searcher.FINISHED
            takes = self._alone() if record.alone and self._alone is not None else None
            self._given[trial_id] = self._book.open(record)
        except Exception as error:  # an exception here would end the sweep without its results
            self._book.problems.append(f"suggest: {error!r}")
            return Searcher.FINISHED
        checkpoint = record.checkpoint and self._book.folder.checkpoint_address(record.checkpoint)
        return {
            "trial_id": record.trial_id, "objective": record.objective, "seed": record.seed,
            "config": record.config, "resume_from": checkpoint, "takes": takes,
        }  # fmt: skip

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if error:  # Tune says what it died of a moment later: see on_failure
            return
        record = self._given.pop(trial_id, None)
        # A run that Tune calls complete but that did not say `finished` was stopped: it goes on another time.
        if record is None or result is None or not result.get("finished", False):
            return
        # Tune hands results to searchers flattened.
        best = None if result["failed"] else {key: result[f"best/{key}"] for key in ("score", "violation")}
        self._tell(record, best)

    def on_failure(self, trial_id: str, failure: Failure) -> None:
        """A run broke off: it goes on, or it failed."""
        record = self._given.pop(trial_id, None)
        if record is None or self._source is None or self._book is None or self._draining is None:
            return
        # A worker that died after its last checkpoint had arrived took nothing with it. The study is told of such a run
        # at the next launch, from the record.
        if self._draining() or record.state != "RUNNING":
            return
        if not self._goes_on(record, failure):
            self._book.on_error(record.trial_id, failure.text, failure.details)
            self._tell(record, None)
            return
        record.alone = record.alone or failure.fault is Fault.MEMORY
        self._book.on_lost(record.trial_id, failure.text, failure.details)
        self._source.give_back(record)

    def _goes_on(self, record: TrialRecord, failure: Failure) -> bool:
        if failure.fault is Fault.LOST:
            return self._book is not None and self._book.lost_in_a_row(record.trial_id) + 1 < MOST_LOST
        if failure.fault is Fault.MEMORY and not record.alone:
            return self._alone is not None and self._alone() is not None
        return False

    def _tell(self, record: TrialRecord, best: dict[str, Any] | None) -> None:
        if self._source is None or self._book is None:
            return
        try:
            self._source.tell(record, best)
        except Exception as problem:  # see suggest
            self._book.problems.append(f"tell {record.trial_id}: {problem!r}")

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the journal and our records are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore; see :meth:`save`."""


class BookCallback(Callback):
    """Carries Tune's events to the book, and failures to the searcher, which decides what becomes of the run."""

    def __init__(self, book: TrialBook, searcher: RunSearcher) -> None:
        self._book: TrialBook | None = book
        self._searcher: RunSearcher | None = searcher

    def __getstate__(self) -> dict[str, Any]:
        return {"_book": None, "_searcher": None}

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if self._book is not None:
            self._book.on_round(trial.config["trial_id"], result)

    def on_checkpoint(
        self, iteration: int, trials: Any, trial: Any, checkpoint: tune.Checkpoint, **info: Any
    ) -> None:
        if self._book is not None:
            self._book.on_checkpoint(trial.config["trial_id"], checkpoint.path)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        if self._searcher is not None:
            self._searcher.on_failure(trial.trial_id, Failure.of_trial(trial))


class DrainStopper(Stopper):
    """Ends the whole experiment once draining was asked for."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self._asked: Callable[[], bool] | None = asked

    def __getstate__(self) -> dict[str, Any]:
        return {"_asked": None}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._asked is not None and self._asked()


def trial_record(
    objective: str, number: int, seed: int, config: dict[str, Any], acting: dict[str, Any], arm: str = ""
) -> TrialRecord:
    """The record of a new trial of the search."""
    record = TrialRecord(
        trial_id="", objective=objective, kind="trial", number=number, seed=seed, arm=arm, config=config,
        config_hash=config_hash(objective, acting),
    )  # fmt: skip
    record.trial_id = f"{record.study}/trial-{number:03d}"
    return record


def replicate_record(trial: TrialRecord, index: int, seed: int) -> TrialRecord:
    """The record of a run of a trial's settings on a fresh seed; ``index`` counts from 1."""
    return TrialRecord(
        trial_id=f"{trial.trial_id}/seed-{index}", objective=trial.objective, kind="replicate",
        number=trial.number, seed=seed, replicate_of=trial.trial_id, arm=trial.arm,
        reference_arm=trial.reference_arm, config=trial.config,
        config_hash=trial.config_hash,
    )  # fmt: skip
