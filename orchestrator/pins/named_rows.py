"""Rows of a sweep's table by the names that people give them, each with the one file that is its model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING

from orchestrator.errors import NotFound, PreflightError, UsageError
from orchestrator.messages import counted
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import TrialRecord
from orchestrator.results.rows import SELMIX, Choice, Choices, Verdict, Winner
from orchestrator.spec.schema import spec_from_resolved

if TYPE_CHECKING:
    from orchestrator.results.judge import Judge


def named_row(folder: RunFolder, name: str, objectives: Sequence[str] = ()) -> TrialRecord:
    """The record of a row, if it can be pinned.

    Args:
        folder: of a sweep.
        name: id of a row as ``show --json`` lists it (``min_recall/baseline/plug_in``); an approach (``plug_in``, or
            ``selmix`` for the best SelMix row); or an id without its objective (``trial-003``, ``trial-003/seed-1``).
        objectives: that the row may be one of; empty: any.
    Raises:
        NotFound: there is no such row.
        UsageError: there are several, or the row cannot be pinned.
    """
    records = [
        record
        for record in (*folder.load_trials(), *folder.load_baselines())
        if not objectives or record.objective in objectives
    ]
    found = _matching(folder, records, name)
    if not found:
        near = get_close_matches(name, [each for record in records for each in _names(record)], 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise NotFound(f"--row: {folder.name} has no row {name!r}; {hint}there are {_all(records)}")
    if len(found) > 1:
        ids = ", ".join(record.trial_id for record in found)
        raise UsageError(
            f"--row: must name one row, {name!r} are {len(found)}: {ids}; give one of these ids, or --objective"
        )
    if (reason := why_not_pinned(found[0])) is not None:
        raise UsageError(f"--row: {found[0].trial_id} cannot be pinned: {reason}")
    return found[0]


def why_not_pinned(record: TrialRecord) -> str | None:
    """Reason why a row cannot be pinned, as far as its record knows; None where it can."""
    if record.state != "FINISHED":
        problem = "" if record.error is None else f": {record.error}"
        return f"it is {record.state}{problem}"
    if record.kind == "baseline":
        from selmix.baselines import BASELINES

        if record.name not in BASELINES:
            return "this version has no such approach, so that nothing could reproduce it"
    return None


def shipped_row(folder: RunFolder, record: TrialRecord, judged: bool) -> tuple[Winner, Verdict | None]:
    """A row with the file that ships of it, and its verdict on select.

    Args:
        folder: of a sweep.
        record: of the row.
        judged: False to leave the verdict out, which is None then.
    Raises:
        UsageError: the row is no single model.
        PreflightError: files of the sweep are missing.
    """
    with judge_of(folder, record.objective) as (judge, choice):
        row = judge.row_of(record, choice)
        for each in row.records:
            if (reason := judge.why_not_shipped(each)) is not None:
                raise UsageError(f"--row: {record.trial_id} cannot be pinned: {reason}")
            if not (files := folder.weights_files(each.trial_id)) or len(files) < len(each.seeds):
                raise PreflightError(
                    f"{folder.trial_folder(each.trial_id)}: must hold the weights of {each.trial_id}, there are "
                    f"{counted(len(files), 'file')}; launch the sweep under a new name (name=NEW) to make them again"
                )
        verdict = judge.verdict(row, judge.candidates(choice)) if judged else None
        return judge.shipped_row(row, choice), verdict


@contextmanager
def judge_of(folder: RunFolder, objective: str) -> Iterator[tuple[Judge, Choice | None]]:
    """Judge of an objective, with the functions of the user's own that the sweep was judged by, and its choice.

    Args:
        folder: of a sweep that was launched.
        objective: of the sweep.
    Raises:
        PreflightError: the record of the sweep has no data yet.
    """
    from orchestrator.build.own_source import imported_from
    from orchestrator.results.judge import Judge

    state = folder.load_state()
    if state.data is None or state.base is None:
        raise PreflightError(f"{folder.shown}: must have been launched, its record has no data yet")
    if state.objective_source:
        folder.store.pull(folder.source_path, (".py",))
    choices = folder.load(folder.choices_path, Choices)
    with imported_from(folder.source_path, state.objective_source):
        judge = Judge(folder, spec_from_resolved(folder.load_spec()), objective)
        yield judge, None if choices is None else choices.objectives.get(objective)


def _matching(folder: RunFolder, records: Sequence[TrialRecord], name: str) -> list[TrialRecord]:
    """Records that a name may mean; a whole id means one."""
    if exact := [record for record in records if record.trial_id == name]:
        return exact
    if name == SELMIX:
        # Of the trials of an objective one stands in its table: the best.
        choices = folder.load(folder.choices_path, Choices)
        best = [each.winner for each in choices.objectives.values() if each is not None] if choices else []
        return [record for record in records if record.trial_id in best]
    return [record for record in records if name in _names(record)]


def _names(record: TrialRecord) -> list[str]:
    """Names of a row beside its id: without its objective, and the approach of a baseline."""
    short = record.trial_id.partition("/")[2]
    return [short, record.name] if record.kind == "baseline" else [short]


def _all(records: Sequence[TrialRecord]) -> str:
    """The rows that there are, by the names that tell them apart."""
    approaches = list(dict.fromkeys(record.name for record in records if record.kind == "baseline"))
    trials = list(dict.fromkeys(_names(record)[0] for record in records if record.kind == "trial"))
    shown = trials if len(trials) <= 3 else [trials[0], "...", trials[-1]]
    seeds = [" and their seeds, as trial-000/seed-1"] if any(r.kind == "replicate" for r in records) else []
    # A sweep that ended below the rung finetune has no trial.
    best = [SELMIX] if trials else []
    return f"{', '.join([*best, *approaches, *shown])}{''.join(seeds)}"
