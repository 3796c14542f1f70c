"""``selmix ls``: list the sweeps of a runs folder, from records alone."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.documents import SCHEMA_VERSION
from orchestrator.records.folder import RunFolder, list_sweeps
from orchestrator.records.leases.lease import current_state
from orchestrator.records.store import Store, runs_flag
from orchestrator.results.rows import ObjectiveResult, VerdictOutcome, load_results, rests_on, said
from orchestrator.table import Column, minute, number, sentence, short, table, unit_of
from orchestrator.verbs.show import RunCounts, run_counts


@dataclass(frozen=True)
class BriefVerdict:
    """Verdict in short.

    Attributes:
        outcome: of the winner.
        against: its best opponent on select.
        rests_on: opponent that the outcome rests on: one that it is not told apart from, or that is better.
        by_earlier_rule: True if an earlier version judged: against one baseline, and without a margin.
    """

    outcome: VerdictOutcome
    against: str
    by_earlier_rule: bool = False
    rests_on: str | None = None


@dataclass(frozen=True)
class BriefResult:
    """Summary of an objective.

    Attributes:
        metric: metric that decides it; None while it is undecided.
        winner: id of the winning row; None without one.
        value: mean of the metric on select over fresh seeds; None without a winner.
        verdict: verdict against the best baseline; None without one.
    """

    metric: str | None
    winner: str | None
    value: float | None
    verdict: BriefVerdict | None


@dataclass(frozen=True)
class SweepRow:
    """Summary of a sweep.

    Attributes:
        sweep: name of the sweep.
        sweep_id: random id, made at its first launch.
        state: ``running``, ``stopped``, ``finished`` or ``failed``.
        created: time of the first launch.
        progress: runs by state.
        objectives: objective -> summary; empty before the sweep is finished.
    """

    sweep: str
    sweep_id: str
    state: str
    created: str
    progress: RunCounts
    objectives: dict[str, BriefResult]


@dataclass(frozen=True, kw_only=True)
class LsDocument:
    """Sweeps of a runs folder, sorted by name."""

    schema_version: int = SCHEMA_VERSION
    runs: str
    sweeps: list[SweepRow]


def ls_document(store: Store) -> LsDocument:
    """List the sweeps of a runs folder.

    Raises:
        PreflightError: a record is damaged.
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
    # The mean over fresh seeds: the value of the winning trial itself is biased upwards by its selection.
    value = None
    if winner is not None and result.metric is not None:
        value = winner.replicates.select[result.metric].value
    return BriefResult(
        result.metric, None if winner is None else winner.row or winner.trial_id, value,
        None if verdict is None else BriefVerdict(
            verdict.outcome, verdict.against, verdict.margin is None, rests_on(verdict)[0]
        ),
    )  # fmt: skip


def ls_text(document: LsDocument, width: int | None) -> str:
    """Table of the sweeps, with their objectives below each."""
    if not document.sweeps:
        flag = runs_flag(document.runs)
        return sentence(f"no sweeps in {document.runs}; selmix launch FILE{flag} starts one", width)
    rows, notes = [], []
    for sweep in document.sweeps:
        done = sweep.progress
        failed = f", {done.failed} failed" if done.failed else ""
        # A sweep of corrections and heads alone has none.
        runs = f"{done.finished}/{done.total}{failed}" if done.total else ""
        rows.append((sweep.sweep, sweep.state, runs, minute(sweep.created)))
        notes.append([_summary(name, result) for name, result in sweep.objectives.items()])
    columns = (Column("sweep"), Column("state"), Column("runs", right=True), Column("created"))
    return table(columns, rows, width, notes)


def _summary(objective: str, result: BriefResult) -> str:
    if result.winner is None or result.value is None:
        return f"{objective}: no feasible trial"
    # Under its own name an objective has its own metric alone.
    metric = "" if result.metric in (None, objective) else f", judged by {result.metric}:"
    unit = unit_of(result.metric)
    text = f"{objective}{metric} {number(result.value, unit)}{unit.value} on select: {short(result.winner)}"
    if result.verdict is not None:
        rule = ", by the earlier rule" if result.verdict.by_earlier_rule else ""
        text += f", {said(result.verdict.outcome)} {result.verdict.rests_on or result.verdict.against}{rule}"
    return text
