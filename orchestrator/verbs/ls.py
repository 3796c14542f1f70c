"""``selmix ls``: the sweeps of a runs folder, from records alone."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.documents import SCHEMA_VERSION
from orchestrator.records.folder import RunFolder, list_sweeps
from orchestrator.records.lease import current_state
from orchestrator.records.store import Store
from orchestrator.results.rows import ObjectiveResult, Outcome, load_results
from orchestrator.table import Column, percent, sentence, short, table
from orchestrator.verbs.show import RunCounts, run_counts


@dataclass(frozen=True)
class BriefVerdict:
    """Outcome, and the baseline that it is against."""

    outcome: Outcome
    against: str


@dataclass(frozen=True)
class BriefResult:
    """An objective's winner in a line: its id, its mean on select over fresh seeds, and the verdict."""

    metric: str | None
    winner: str | None
    value: float | None
    verdict: BriefVerdict | None


@dataclass(frozen=True)
class SweepRow:
    """A sweep in a line."""

    sweep: str
    sweep_id: str
    state: str
    created: str
    progress: RunCounts
    objectives: dict[str, BriefResult]


@dataclass(frozen=True, kw_only=True)
class LsDocument:
    """The sweeps of a runs folder, by name."""

    schema_version: int = SCHEMA_VERSION
    runs: str
    sweeps: list[SweepRow]


def ls_document(store: Store) -> LsDocument:
    """The sweeps of a runs folder.

    Raises:
        PreflightError: a damaged record.
    """
    return LsDocument(runs=store.shown, sweeps=[_row(folder) for folder in list_sweeps(store)])


def _row(folder: RunFolder) -> SweepRow:
    state, results = folder.load_state(), load_results(folder)
    now = current_state(folder, state.state)
    objectives = {} if results is None else results.objectives
    return SweepRow(
        folder.name, state.sweep_id, now, state.created, run_counts(state, folder.load_trials(), now),
        {name: _brief(result) for name, result in objectives.items()},
    )  # fmt: skip


def _brief(result: ObjectiveResult) -> BriefResult:
    winner, verdict = result.winner, result.verdict
    value = None
    if winner is not None and result.metric is not None:
        value = winner.replicates.select[result.metric].value
    return BriefResult(
        result.metric, None if winner is None else winner.trial_id, value,
        None if verdict is None else BriefVerdict(verdict.outcome, verdict.against),
    )  # fmt: skip


def ls_text(document: LsDocument, width: int | None) -> str:
    """One row a sweep and objective."""
    if not document.sweeps:
        return sentence(f"no sweeps in {document.runs}; selmix launch FILE begins one", width)
    rows = []
    for sweep in document.sweeps:
        done = sweep.progress
        failed = f", {done.failed} failed" if done.failed else ""
        count = f"{done.finished}/{done.total}{failed}"
        undecided: dict[str, BriefResult | None] = {"": None}
        for objective, result in (sweep.objectives or undecided).items():
            cells = ("", "", "", "")
            if result is not None and result.winner is not None:
                verdict = f"{result.verdict.outcome} vs {result.verdict.against}" if result.verdict else ""
                value = "" if result.value is None else percent(result.value)
                cells = (short(result.winner), objective, value, verdict)
            rows.append((sweep.sweep, sweep.state, count, *cells, sweep.created))
    columns = (
        Column("sweep"), Column("state"), Column("runs", right=True), Column("winner"), Column("metric"),
        Column("select, %", right=True), Column("verdict"), Column("created"),
    )  # fmt: skip
    return table(columns, rows, width)
