"""Early stopping of trials that are behind their peers; schedulers of Ray Tune, built elsewhere, decide.

A trial's peers are the trials of its study: scores of two objectives cannot be compared, and the arms of a comparison
must not be judged by each other. What a scheduler has seen lies in ``rounds.jsonl`` too: a sweep that resumes fills a
new one from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.records.folder import Round
from orchestrator.records.types import TrialRecord

STEPS, VALUE = "steps", "value"
"""Keys of the results that a scheduler compares: SGD steps done, and :attr:`BestSoFar.value`."""

INFEASIBLE = -(2.0**24)
"""Value of a round that misses the bounds by next to nothing: below every score, and a finite number to average."""

QUANTUM, VIOLATION_QUANTUM = 2.0**-30, 2.0**-16
"""Steps of scores and of violations in a value: the mean of a thousand equal values is that value, without rounding."""


@dataclass(frozen=True)
class BestSoFar:
    """Best round of a run as it stood after some steps.

    Attributes:
        steps: SGD steps done; the best round may be an earlier one.
        score: selection score of the best round.
        violation: amount by which it misses the bounds of the search, 0.0 where they hold.
    """

    steps: int
    score: float
    violation: float = 0.0

    @property
    def rank(self) -> tuple[bool, float]:
        """Sort key of rounds and trials: those within the bounds by score, before the others by the least violation."""
        feasible = self.violation == 0.0
        return feasible, self.score if feasible else -self.violation

    @property
    def value(self) -> float:
        """The rank as one number, which schedulers compare and average.

        Many trials stay at the score of their start model. A mean that is above all that it is a mean of, by the
        rounding of floats, would end them for being as good as their peers.
        """
        if self.violation == 0.0:
            return round(self.score / QUANTUM) * QUANTUM
        return INFEASIBLE - round(self.violation / VIOLATION_QUANTUM) * VIOLATION_QUANTUM


def best_so_far(
    rounds: Iterable[Round], violation: Callable[[Mapping[str, float]], float]
) -> list[BestSoFar]:
    """Best round so far after each round of a run.

    Args:
        rounds: rows of ``rounds.jsonl``, in order.
        violation: metrics of a round -> amount by which they miss the bounds of the search.
    """
    curve: list[BestSoFar] = []
    for row in rounds:
        now = BestSoFar(row["steps"], row["score"], violation(row["select"]))
        before = curve[-1] if curve else now
        # Of equal rounds the earlier one stays, as in a run.
        best = now if now.rank > before.rank else before
        curve.append(BestSoFar(now.steps, best.score, best.violation))
    return curve


class Scheduler(Protocol):
    """The part of a scheduler of Tune that needs no Tune around it."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Learn of a trial."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide about a trial by a result: ``STOP`` ends it."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Learn of a result that nothing is decided by."""


@dataclass(frozen=True)
class Peer:
    """A run as a scheduler knows it: our id, so that a run that resumes is the same one.

    Attributes:
        trial_id: of the run.
    """

    trial_id: str


class EarlyStopping:
    """Decides which trials end early, each by those of its study.

    Trial 0, the defaults, is a peer and never stopped; replicates and baselines are no peers at all.

    Args:
        build: makes a scheduler that compares results by :data:`VALUE` at :data:`STEPS`.
    """

    def __init__(self, build: Callable[[], Scheduler]) -> None:
        self._build = build
        self._schedulers: dict[str, Scheduler] = {}
        # Run -> steps of its last result that its scheduler has.
        self._known: dict[str, int] = {}
        # Run -> its last result on record, about which a killed driver may not have decided.
        self._held: dict[str, BestSoFar] = {}

    def fill(self, record: TrialRecord, curve: Sequence[BestSoFar]) -> None:
        """Let the peers of a trial know what is on record of it.

        Of an unfinished one the last result is held back: the driver may have died before it acted on it. It is judged
        once the run reports it again, or counts once the run is known to be beyond it.

        Args:
            record: of the trial.
            curve: of its rounds.
        """
        for reached in curve if record.is_done else curve[:-1]:
            self._add(record, reached)
        if curve and not record.is_done:
            self._held[record.trial_id] = curve[-1]

    def stops(self, record: TrialRecord, reached: BestSoFar, finished: bool = False) -> bool:
        """True if a trial is to end now.

        Args:
            record: of the trial.
            reached: by its latest round.
            finished: True if it has ended by itself: its result counts among its peers.
        """
        if record.kind != "trial":
            return False
        held = self._held.pop(record.trial_id, None)
        if held is not None and held.steps < reached.steps:
            self._add(record, held)
        elif held is not None and held.steps > reached.steps:
            self._held[record.trial_id] = held
        # A run that resumes repeats rounds that were decided about.
        if reached.steps <= self._known.get(record.trial_id, -1):
            return False
        # A scheduler that was heard and not obeyed would take the next result for a mistake.
        if finished or record.number == 0:
            self._add(record, reached)
            return False
        scheduler, peer = self._of(record)
        self._known[record.trial_id] = reached.steps
        return scheduler.on_trial_result(None, peer, _result(reached)) == "STOP"

    def _add(self, record: TrialRecord, reached: BestSoFar) -> None:
        if reached.steps <= self._known.get(record.trial_id, -1):
            return
        self._known[record.trial_id] = reached.steps
        scheduler, peer = self._of(record)
        scheduler.on_trial_complete(None, peer, _result(reached))

    def _of(self, record: TrialRecord) -> tuple[Scheduler, Peer]:
        if record.study not in self._schedulers:
            self._schedulers[record.study] = self._build()
        scheduler, peer = self._schedulers[record.study], Peer(record.trial_id)
        # Before each result: ASHA forgets a trial with the first one that it takes for its last.
        scheduler.on_trial_add(None, peer)
        return scheduler, peer


def _result(reached: BestSoFar) -> dict[str, Any]:
    return {STEPS: reached.steps, VALUE: reached.value}
