"""Ablation: the values of one parameter against each other, each with a study of equal size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.records.types import Figure, TrialRecord
from orchestrator.results.replicate_means import mean_score, mean_select
from orchestrator.results.rows import ArmResult, ComparisonRow, ComparisonTable, Outcome

Finals = Mapping[str, Sequence[TrialRecord]]
"""Id of a finalist -> its replicates; empty where one of them failed."""


class PairedComparison(Protocol):
    """Comparison of configurations over their replicates, as :class:`orchestrator.results.judge.Judge` does it."""

    def difference(self, ours: Sequence[TrialRecord], theirs: Sequence[TrialRecord]) -> Figure:
        """Paired difference ours - theirs, oriented so that higher is better."""

    def outcomes(
        self, others: Mapping[str, Sequence[TrialRecord]], reference: Sequence[TrialRecord]
    ) -> dict[str, Outcome]:
        """Outcome of each of several against the reference, corrected for their number."""


@dataclass(frozen=True)
class ArmComparison:
    """Paired differences between the arms of one objective.

    Each arm is represented by its best finalist (``tuned``: the value at equal search effort) and by its trial 0
    (``defaults``: the effect of the value alone). Both are means over the same fresh seeds, on the same samples.

    Attributes:
        judge: compares configurations.
        arms: label of an arm -> its value of the compared parameter; the first arm is the reference.
        trials: id -> record of the trial.
        finals: id of a finalist -> its replicates.
    """

    judge: PairedComparison
    arms: Mapping[str, Mapping[str, Any]]
    trials: Mapping[str, TrialRecord]
    finals: Finals

    def table(self, parameter: str) -> ComparisonTable:
        """Table of the comparison, as ``selmix show`` prints it."""
        # The order of the sweep file: its first value is the reference.
        reference = next(iter(self.arms))
        tuned = self._results({arm: self._best(arm) for arm in self.arms}, reference)
        defaults = self._results({arm: self._defaults(arm) for arm in self.arms}, reference)
        rows = [
            ComparisonRow(settings[parameter], tuned[arm], defaults[arm])
            for arm, settings in self.arms.items()
        ]
        return ComparisonTable(parameter, self.arms[reference][parameter], rows)

    def _finals_of(self, arm: str) -> list[str]:
        return [name for name, runs in self.finals.items() if runs and self.trials[name].arm == arm]

    def _best(self, arm: str) -> str | None:
        return max(self._finals_of(arm), key=lambda name: mean_score(self.finals[name]), default=None)

    def _defaults(self, arm: str) -> str | None:
        return next((name for name in self._finals_of(arm) if self.trials[name].number == 0), None)

    def _results(self, chosen: Mapping[str, str | None], reference: str) -> dict[str, ArmResult | None]:
        """Result of each arm; None where it has no finished finalist."""
        against = chosen[reference]
        others = {
            arm: self.finals[name] for arm, name in chosen.items() if name is not None and arm != reference
        }
        # All arms in one call: Holm's correction needs the number of comparisons.
        outcomes: dict[str, Outcome] = {}
        if against is not None and others:
            outcomes = self.judge.outcomes(others, self.finals[against])
        return {
            arm: None if name is None else self._result(name, against, outcomes.get(arm))
            for arm, name in chosen.items()
        }

    def _result(self, name: str, against: str | None, outcome: Outcome | None) -> ArmResult:
        runs = self.finals[name]
        # The reference has no outcome, nor has any arm where the reference has no finished finalist.
        gap = None
        if outcome is not None and against is not None:
            gap = self.judge.difference(runs, self.finals[against])
        return ArmResult(name, mean_score(runs), mean_select(runs), gap, outcome)
