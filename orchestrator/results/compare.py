"""The values of one parameter against each other, each with a study of equal size: an ablation that is fair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.records.types import TrialRecord
from orchestrator.results.rows import mean_score, mean_select
from orchestrator.table import difference, estimate, short

if TYPE_CHECKING:
    from orchestrator.spec.schema import SweepSpec

Finals = Mapping[str, Sequence[TrialRecord]]


class Judge(Protocol):
    """What decides an objective: :class:`orchestrator.results.judge.Judge`."""

    spec: SweepSpec
    trials: dict[str, TrialRecord]

    def difference(self, ours: Sequence[TrialRecord], theirs: Sequence[TrialRecord]) -> dict[str, float]: ...

    def outcomes(
        self, others: Mapping[str, Sequence[TrialRecord]], reference: Sequence[TrialRecord]
    ) -> dict[str, str]: ...


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
        reference = next(iter(spec.arms))
        kinds = {
            kind: self._rows({arm: pick(arm) for arm in spec.arms}, reference)
            for kind, pick in (("tuned", self._best), ("defaults", self._defaults))
        }
        rows = [
            {"value": settings[parameter]} | {kind: rows[arm] for kind, rows in kinds.items()}
            for arm, settings in spec.arms.items()
        ]
        return {"parameter": parameter, "reference": spec.arms[reference][parameter], "rows": rows}

    def _finals_of(self, arm: str) -> list[str]:
        return [name for name, runs in self.finals.items() if runs and self.judge.trials[name].arm == arm]

    def _best(self, arm: str) -> str | None:
        return max(self._finals_of(arm), key=lambda name: mean_score(self.finals[name]), default=None)

    def _defaults(self, arm: str) -> str | None:
        return next((name for name in self._finals_of(arm) if self.judge.trials[name].number == 0), None)

    def _rows(self, chosen: Mapping[str, str | None], reference: str) -> dict[str, dict[str, Any] | None]:
        """Arm -> its row; None where it has no finished finalist."""
        against = chosen[reference]
        others = {
            arm: self.finals[name] for arm, name in chosen.items() if name is not None and arm != reference
        }
        outcomes: dict[str, str] = {}
        if against is not None and others:
            outcomes = self.judge.outcomes(others, self.finals[against])
        return {
            arm: None if name is None else self._row(name, against, outcomes.get(arm))
            for arm, name in chosen.items()
        }

    def _row(self, name: str, against: str | None, outcome: str | None) -> dict[str, Any]:
        runs = self.finals[name]
        gap = None
        if outcome is not None and against is not None:
            gap = self.judge.difference(runs, self.finals[against])
        return {
            "trial_id": name, "score": mean_score(runs), "select": mean_select(runs), "difference": gap,
            "outcome": outcome,
        }  # fmt: skip


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
            cells += [estimate(told["select"][metric]), _against(told)]
            if kind == "tuned":
                cells.append(short(told["trial_id"]))
        rows.append(tuple(cells))
    return rows


def comparison_caption(compare: Mapping[str, Any], seeds: int) -> str:
    """What stands above the table."""
    others = len(compare["rows"]) - 1
    corrected = f", corrected for {others} comparisons" if others > 1 else ""
    return (
        f"compared, each value with a study of its own, means over {seeds} fresh seeds, paired, on select; intervals "
        f"are each its own, better, tied or worse at 5 %{corrected}:"
    )


def _against(told: Mapping[str, Any]) -> str:
    if told["difference"] is None:
        return ""
    return f"{difference(told['difference'])} {told.get('outcome', '')}".rstrip()  # older records have none
