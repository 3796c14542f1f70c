"""Result of a screen: its configurations as they ended, and the table of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from selmix.config import FinetuneConfig
from selmix.metrics import Predictions
from selmix.screen.batch import HALVED, Head, Row, has_failed
from selmix.screen.judging import Judge
from selmix.statistics.selection import Rank


@dataclass(frozen=True)
class Screened:
    """A configuration of a screen, as it ended.

    Attributes:
        id: its number as four digits or more.
        config: the settings.
        seed: of its draws.
        value: the metric of the rule on select at its best round; None if no round was judged.
        score: the selection score of that round (bagged, where the rule says nothing else); higher is better.
        violation: sum of what the bounds of the search are missed by there.
        cross_fitted: score over feedback and select by runs without the judging fold; None where there is none.
        cross_fitted_violation: likewise.
        rounds: rounds done.
        steps: SGD steps done.
        best_round: number of the best round; 0 if the start won.
        best_steps: SGD steps done at its end.
        stop_reason: as of :class:`selmix.run.run.Run`, or ``halving``, or ``error: ...`` of an objective that had no
            value.
        seconds: its share of the time of the screen, without cross-fitting.
        promoted: place among the promoted ones, from 0; None for the others.
        head: of the best round, on the CPU; None if there is none.
    """

    id: str
    config: FinetuneConfig
    seed: int
    value: float | None
    score: float | None
    violation: float | None
    cross_fitted: float | None
    cross_fitted_violation: float | None
    rounds: int
    steps: int
    best_round: int | None
    best_steps: int | None
    stop_reason: str
    seconds: float
    promoted: int | None
    head: Head | None

    @property
    def stands(self) -> bool:
        """True if it neither failed nor was halved away."""
        return not has_failed(self.stop_reason) and self.stop_reason != HALVED

    @property
    def rank(self) -> Rank | None:
        """Rank on select; None if no round was judged."""
        return None if self.score is None or self.violation is None else (-self.violation, self.score)

    @property
    def cross_fitted_rank(self) -> Rank | None:
        """Cross-fitted rank; None where there is none."""
        if self.cross_fitted is None or self.cross_fitted_violation is None:
            return None
        return -self.cross_fitted_violation, self.cross_fitted

    def with_cross_fitted(self, rank: Rank | None) -> Screened:
        """The same row with a cross-fitted rank, or without one."""
        missed, score = (None, None) if rank is None else (-rank[0], rank[1])
        return replace(self, cross_fitted=score, cross_fitted_violation=missed)


@dataclass(frozen=True)
class ScreenResult:
    """Result of a screen.

    Attributes:
        rows: the configurations, in their order.
        promoted: numbers of the promoted ones, the best first.
        not_cross_fitted: why there are no cross-fitted scores; empty where there are.
        seconds: of all, cross-fitting too.
        held_out: predictions of each configuration on feedback and select, by runs without the judging fold; None of
            those without a cross-fitted score.
        fold_of: fold of each of these samples, shape (n,); None where nothing was cross-fitted.
    """

    rows: tuple[Screened, ...]
    promoted: tuple[int, ...]
    not_cross_fitted: str
    seconds: float
    held_out: tuple[Predictions | None, ...] = ()
    fold_of: Tensor | None = None

    def table(self) -> Any:
        """The rows as a pyarrow table: ``id``, ``seed``, every setting under its name, then the results."""
        # Imported here: the method itself needs torch and numpy only.
        import pyarrow as pa

        settings = [row.config.flat() for row in self.rows]
        columns: dict[str, list[Any]] = {"id": [row.id for row in self.rows]}
        columns["seed"] = [row.seed for row in self.rows]
        columns |= {name: [each[name] for each in settings] for name in settings[0]}
        results = (
            "value", "score", "violation", "cross_fitted", "cross_fitted_violation", "rounds", "steps", "best_round",
            "best_steps", "stop_reason", "seconds", "promoted",
        )  # fmt: skip
        numbers = {"rounds", "steps", "best_round", "best_steps", "promoted"}
        arrays = {name: pa.array(values) for name, values in columns.items()}
        for name in results:
            kind = pa.int64() if name in numbers else pa.string() if name == "stop_reason" else pa.float64()
            # The type is given because pyarrow cannot infer it where every row has None.
            arrays[name] = pa.array([getattr(row, name) for row in self.rows], kind)
        return pa.table(arrays)


def screened(row: Row, seed: int, head: Head | None, judge: Judge) -> Screened:
    """Make the result of a row that has ended, without a cross-fitted rank.

    Args:
        row: its state.
        seed: of its draws.
        head: of its best round; None if there is none.
        judge: of its rounds.
    """
    best = row.best
    return Screened(
        id=f"{row.number:04d}",
        config=row.config,
        seed=seed,
        value=None if best is None else judge.value(best),
        score=None if best is None else judge.score(best),
        violation=None if best is None else best.violation,
        cross_fitted=None,
        cross_fitted_violation=None,
        rounds=row.round_number,
        steps=row.steps_done,
        best_round=None if best is None else best.round,
        best_steps=None if best is None else best.steps,
        stop_reason=row.stop_reason or "",
        seconds=row.seconds,
        promoted=None,
        head=head,
    )
