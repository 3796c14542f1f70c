"""The values of one parameter against each other, each with a study of equal size: an ablation that is fair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.cells import difference, estimate, short
from orchestrator.means import mean_score, mean_select
from orchestrator.recordtypes import TrialRecord

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec

Finals = Mapping[str, Sequence[TrialRecord]]


class Judge(Protocol):
    """What decides an objective: :class:`orchestrator.results.Judge`."""

    spec: SweepSpec
    trials: dict[str, TrialRecord]

    def difference(self, ours: Sequence[TrialRecord], theirs: Sequence[TrialRecord]) -> dict[str, float]: ...


class Comparison:
    """Paired differences between the arms of one objective.

    Each arm is told by its best finalist (``tuned``: what the value gives at equal search) and by its trial 0
    (``defaults``: what the value alone changes). Both are means over the same fresh seeds, on the same samples.

    Args:
        judge: of the objective. finals: finalist -> its replicates.
    """

    def __init__(self, judge: Judge, finals: Finals) -> None:
        self.judge, self.finals = judge, finals

    def document(self) -> dict[str, Any] | None:
        """The table as the readers show it; None where nothing is compared."""
        spec = self.judge.spec
        if not spec.compare:
            return None
        (parameter,) = spec.compare
        tuned = {arm: self._best(arm) for arm in spec.arms}
        defaults = {arm: self._defaults(arm) for arm in spec.arms}
        reference = next(iter(spec.arms))
        rows = [
            {
                "value": spec.arms[arm][parameter],
                "tuned": self._row(tuned[arm], tuned[reference], arm == reference),
                "defaults": self._row(defaults[arm], defaults[reference], arm == reference),
            }
            for arm in spec.arms
        ]
        return {"parameter": parameter, "reference": spec.arms[reference][parameter], "rows": rows}

    def _finals_of(self, arm: str) -> list[str]:
        return [name for name, runs in self.finals.items() if runs and self.judge.trials[name].arm == arm]

    def _best(self, arm: str) -> str | None:
        return max(self._finals_of(arm), key=lambda name: mean_score(self.finals[name]), default=None)

    def _defaults(self, arm: str) -> str | None:
        return next((name for name in self._finals_of(arm) if self.judge.trials[name].number == 0), None)

    def _row(self, name: str | None, against: str | None, is_reference: bool) -> dict[str, Any] | None:
        if name is None:
            return None
        runs = self.finals[name]
        gap = None
        if against is not None and not is_reference:
            gap = self.judge.difference(runs, self.finals[against])
        return {"trial_id": name, "score": mean_score(runs), "select": mean_select(runs), "difference": gap}


def comparison_rows(compare: Mapping[str, Any], metric: str) -> list[tuple[str, ...]]:
    """Cells of the table for a terminal, its head first."""
    reference = f"minus {compare['reference']}, points"
    rows: list[tuple[str, ...]] = [
        (compare["parameter"], "tuned, %", reference, "best of its study", "defaults, %", reference)
    ]
    for row in compare["rows"]:
        cells = [str(row["value"])]
        for kind in ("tuned", "defaults"):
            told = row[kind]
            if told is None:
                cells += ["no finished finalist", ""] + ([""] if kind == "tuned" else [])
                continue
            cells.append(estimate(told["select"][metric]))
            cells.append("" if told["difference"] is None else difference(told["difference"]))
            if kind == "tuned":
                cells.append(short(told["trial_id"]))
        rows.append(tuple(cells))
    return rows
