"""Rows that are pinned: winners, a trial, or any row of the table; checked before the test split is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import NoFeasibleTrial, PreflightError, UsageError
from orchestrator.pins.named_rows import named_row, shipped_row
from orchestrator.records.folder import RunFolder
from orchestrator.records.leases.lease import current_state
from orchestrator.records.types import TrialRecord
from orchestrator.results.rows import SELMIX, ObjectiveResult, Verdict, Winner, load_results


@dataclass(frozen=True)
class Target:
    """The model to pin.

    Attributes:
        objective: that it was made for.
        record: record that its file belongs to.
        row: the row that it ships of; None for a trial that ``--trial`` names, which stands for itself.
        is_winner: True if that row is the winner of the objective.
        on_select: verdict of the row on select; None without an opponent, and for a trial.
    """

    objective: str
    record: TrialRecord
    row: Winner | None = None
    is_winner: bool = False
    on_select: Verdict | None = None

    @property
    def file(self) -> int:
        """Number of its file among those of its record."""
        return 0 if self.row is None else self.row.file

    @property
    def approach(self) -> str:
        """Approach of its row."""
        return SELMIX if self.row is None else self.row.approach

    @property
    def seed(self) -> int:
        """Seed that it was made with."""
        return self.record.seed if self.row is None else self.row.seed


def targets_of(
    folder: RunFolder, objectives: Sequence[str], trial_id: str | None, row: str | None
) -> list[Target]:
    """The models to pin, one for each objective.

    Args:
        folder: of the sweep.
        objectives: whose winners are pinned, or that the row is one of; may be empty where the sweep has only one.
        trial_id: trial to pin instead of the winner.
        row: row to pin instead of the winner.
    Raises:
        UsageError: the sweep is not finished, the objective or the row is not clear, or the row cannot be pinned.
        NotFound: there is no such trial or row.
        NoFeasibleTrial: the objective has no winner.
    """
    if trial_id is not None and row is not None:
        raise UsageError("--row: cannot stand beside --trial; --row names trials too")
    if trial_id is not None:
        return [_trial(folder, objectives, trial_id)]
    held = folder.load_spec().get("objectives", [])
    for objective in objectives:
        if objective not in held:
            raise UsageError(
                f"--objective: must be one of {', '.join(held)}, the objectives of {folder.name}, got {objective!r}"
            )
    if row is None and not objectives and len(held) > 1:
        raise UsageError(
            f"--objective: must be given, {folder.name} has several: {', '.join(held)}; give it several times "
            "to declare their pins together"
        )
    state = folder.load_state()
    now = current_state(folder, state.state)
    # A trial that --trial names may be pinned at any time; rows are judged when the sweep is finished.
    if now != "finished":
        raise UsageError(
            f"{folder.name}: must be finished to have {'a winner' if row is None else 'rows to pin'}, got {now}; "
            "launch it again, or name a trial: --trial ID"
        )
    if row is not None:
        return [target_of(folder, named_row(folder, row, objectives))]
    results = load_results(folder)
    decided = {} if results is None else results.objectives
    chosen = []
    for objective in objectives or held[:1]:
        result = decided.get(objective, ObjectiveResult())
        if result.winner is None:
            raise NoFeasibleTrial(f"{folder.name}: {objective} has no winner: {state.problem}")
        chosen.append(winner_target(folder, objective, result, result.winner))
    return chosen


def _trial(folder: RunFolder, objectives: Sequence[str], trial_id: str) -> Target:
    record = folder.load_trial(trial_id)
    if record.state != "FINISHED" or record.kind == "baseline":
        raise UsageError(
            f"--trial: must be a finished trial or replicate, got {trial_id}: {record.kind}, {record.state}"
        )
    if any(objective != record.objective for objective in objectives):
        raise UsageError(
            f"--trial: must be a trial of --objective {objectives[0]}, got {trial_id}, one of {record.objective}"
        )
    return Target(record.objective, record)


def winner_target(folder: RunFolder, objective: str, result: ObjectiveResult, winner: Winner) -> Target:
    """The winner of an objective as a model to pin."""
    return Target(objective, folder.load_trial(winner.trial_id), winner, True, result.verdict)


def target_of(folder: RunFolder, record: TrialRecord, judged: bool = True) -> Target:
    """A row as a model to pin: the winner as the winner, however it is named.

    Args:
        folder: of the sweep.
        record: of the row.
        judged: False to leave the verdict on select out.
    Raises:
        UsageError: the row is no single model.
        PreflightError: files of the sweep are missing.
    """
    results = load_results(folder)
    decided = {} if results is None else results.objectives
    result = decided.get(record.objective, ObjectiveResult())
    if result.winner is not None and record.trial_id in (result.winner.row, result.winner.trial_id):
        return winner_target(folder, record.objective, result, result.winner)
    row, verdict = shipped_row(folder, record, judged)
    return Target(record.objective, folder.load_trial(row.trial_id), row, False, verdict)


def weights_of(folder: RunFolder, target: Target) -> Path:
    """Path of the weights to pin, checked before the test split is opened for them.

    Raises:
        PreflightError: they are missing, or are not those of the record.
    """
    from selmix.weights import load_weights, state_digest

    record = target.record
    files = folder.weights_files(record.trial_id)
    path = files[target.file] if target.file < len(files) else folder.weights_path(record.trial_id)
    expected = record.weights_digest if target.row is None else target.row.checkpoint_digest
    try:
        digest = state_digest(load_weights(folder.store.current(path)))
    except ValueError as error:
        raise PreflightError(str(error)) from error
    if digest != expected:
        raise PreflightError(
            f"{path}: must be the weights of {record.trial_id}, digest {expected}, got {digest}"
        )
    return folder.store.current(path)
