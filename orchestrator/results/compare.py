"""The values of one parameter against each other, each with a study of equal size: an ablation that is fair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.records.types import Figure, TrialRecord
from orchestrator.results.replicate_means import mean_score, mean_select
from orchestrator.results.rows import ArmResult, ComparisonRow, ComparisonTable, Outcome

Finals = Mapping[str, Sequence[TrialRecord]]
"""Finalist -> its replicates; empty where one of them failed."""


class PairedComparison(Protocol):
    """Comparison of configurations over their replicates: :class:`orchestrator.results.judge.Judge`."""

    def difference(self, ours: Sequence[TrialRecord], theirs: Sequence[TrialRecord]) -> Figure:
        """Paired difference, higher is better."""

    def outcomes(
        self, others: Mapping[str, Sequence[TrialRecord]], reference: Sequence[TrialRecord]
    ) -> dict[str, Outcome]:
        """Each of several against the reference, corrected for their number."""


@dataclass(frozen=True)
class ArmComparison:
    """Paired differences between the arms of one objective.

    Each arm is represented by its best finalist (``tuned``: what the value gives at equal search) and by its trial 0
    (``defaults``: what the value alone changes). Both are means over the same fresh seeds, on the same samples.

    Attributes:
        judge: compares configurations.
        arms: label -> the value that it gives the compared parameter; the first is the reference.
        trials: id -> record. finals: finalist -> its replicates.
    """

    judge: PairedComparison
    arms: Mapping[str, Mapping[str, Any]]
    trials: Mapping[str, TrialRecord]
    finals: Finals

    def table(self, parameter: str) -> ComparisonTable:
        """The comparison as the readers show it."""
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
        """Arm -> its result; None where it has no finished finalist."""
        against = chosen[reference]
        others = {
            arm: self.finals[name] for arm, name in chosen.items() if name is not None and arm != reference
        }
        outcomes: dict[str, Outcome] = {}
        if against is not None and others:
            outcomes = self.judge.outcomes(others, self.finals[against])
        return {
            arm: None if name is None else self._result(name, against, outcomes.get(arm))
            for arm, name in chosen.items()
        }

    def _result(self, name: str, against: str | None, outcome: Outcome | None) -> ArmResult:
        runs = self.finals[name]
        gap = None
        if outcome is not None and against is not None:
            gap = self.judge.difference(runs, self.finals[against])
        return ArmResult(name, mean_score(runs), mean_select(runs), gap, outcome)
