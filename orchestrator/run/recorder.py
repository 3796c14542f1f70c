"""Recorder of the runs of a sweep, in our records and in MLflow: opened, reported, finished, failed.

It is called from Tune's searcher and callback, where an exception would end the whole sweep: the methods named
``on_*`` never raise, but note the problem and continue.
"""

from __future__ import annotations

import functools
import json
import tempfile
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from orchestrator.clock import now_ms
from orchestrator.documents import from_document
from orchestrator.progress import Progress
from orchestrator.records.folder import Round, RunFolder
from orchestrator.records.logs import append_log
from orchestrator.records.types import Figure, TrialRecord
from orchestrator.run.outcome import RunOutcome
from orchestrator.table import number, unit_of
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.values import MAX_SCALARS, Best
from selmix.config import FinetuneConfig

P = ParamSpec("P")
OUTCOME_FILES = ("weights.safetensors", "predictions.npz", "rounds.parquet")
MLFLOW_STATUS = {"FINISHED": "FINISHED", "PRUNED": "FINISHED", "FAILED": "FAILED"}
DEVIATION_TAGS = {"second": "selmix.oracle", "gain_formula": "selmix.gain_formula"}
"""Setting that deviates from the method -> MLflow tag. ``second``: the choice of the partner samples."""


def _within_limit(values: Mapping[str, float]) -> dict[str, float]:
    """Values of a round that MLflow draws: of those of single bounds as many as fit, the record has all of them."""

    def is_of_bound(key: str) -> bool:
        return key.startswith("multiplier/") or "/" in key.removeprefix("select/")

    ordered = sorted(values, key=is_of_bound)  # stable
    return {key: values[key] for key in ordered[:MAX_SCALARS]}


def never_raises(
    method: Callable[Concatenate[Recorder, P], None],
) -> Callable[Concatenate[Recorder, P], None]:
    """Note an exception of a method of the recorder instead of raising it into Tune."""

    def guarded(self: Recorder, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # a boundary: see the docstring of the module
            where = traceback.extract_tb(error.__traceback__)[-1]
            # The run is the first argument of all of them but those that are of the whole sweep.
            run = f" of {args[0]}" if args else ""
            self.problems.append(
                f"{method.__name__}{run}: {error!r} ({Path(where.filename).name}, line {where.lineno})"
            )

    return functools.update_wrapper(guarded, method)


class Recorder:
    """Recorder of the runs that are alive.

    Args:
        folder: records of the sweep.
        tracker: writes to MLflow.
        progress: shown to the user.
        tags: of every MLflow run of the sweep.
        params: of every MLflow run of the sweep (``data.*``, ``model.*``, ...).
        metrics: objective -> metric that ranks its runs; scores of an objective without one are shown in percent.
    Attributes:
        problems: notes of exceptions that were not raised.
    """

    def __init__(
        self,
        folder: RunFolder,
        tracker: Tracker,
        progress: Progress,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        metrics: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.tracker, self.progress = folder, tracker, progress
        self._metrics = dict(metrics or {})
        self.tags, self.params = dict(tags), dict(params)
        self.problems: list[str] = []
        self._live: dict[str, TrialRecord] = {}
        # Run -> last round that was sent to MLflow.
        self._logged: dict[str, int] = {}
        # Run -> time of its last checkpoint or start: work done since is lost with its worker.
        self._safe_ms: dict[str, int] = {}
        self._losses_in_a_row: dict[str, int] = {}
        # Counted from the records, so that a resumed sweep remembers its failures.
        self._failed = {r.trial_id for r in folder.load_trials() if r.kind == "trial" and r.state == "FAILED"}

    @property
    def failed_trials(self) -> int:
        """Number of trials of the search that failed, in earlier launches too."""
        return len(self._failed)

    # -- a run begins -------------------------------------------------------------------------------------

    def open(self, record: TrialRecord) -> TrialRecord:
        """Put a run on record as RUNNING, with its MLflow run, before it starts.

        A run that resumes from a checkpoint keeps the rounds up to it; later ones are run again, bit-equal.

        Args:
            record: of the run; it is changed and returned.
        """
        record.state, record.error, record.stop_reason = "RUNNING", None, None
        # A run that resumes is one run to MLflow, with its first start.
        record.started_ms = record.started_ms or now_ms()
        record.ended_ms = None
        rounds = self.folder.rounds(record.trial_id)
        self._logged[record.trial_id] = max((row["round"] for row in rounds), default=-1)
        # The record is written before the MLflow run is made: after a kill between the two the run is found by its tag.
        self.folder.save_trial(record)
        run_id = self._tracked(record)
        if run_id is not None and run_id != record.mlflow_run_id:
            record.mlflow_run_id = run_id
            self.folder.save_trial(record)
        self._live[record.trial_id] = record
        self._safe_ms[record.trial_id] = now_ms()
        begins = f"resumes from {record.checkpoint}" if record.checkpoint else "begins"
        self.note(record.trial_id, f"{begins}: seed {record.seed}, {json.dumps(record.config)}")
        # All rounds again: a killed driver may not have sent the last ones.
        self._log_rounds(record.trial_id, rounds)
        self.progress.started()
        return record

    def _tracked(self, record: TrialRecord, params: Mapping[str, Any] | None = None) -> str | None:
        """Id of the run in MLflow, found or created; None where MLflow is away."""
        return self.tracker.open_trial(
            record.trial_id, record.display_name, self.run_tags(record),
            self.run_params(record) if params is None else params, record.started_ms or now_ms(),
            record.mlflow_run_id,
        )  # fmt: skip

    def _log_rounds(self, trial_id: str, rounds: Sequence[Round]) -> None:
        """Send rounds to MLflow, which drops those that it has already."""
        for row in rounds:
            values = {f"select/{key}": value for key, value in row["select"].items()}
            values |= {"round": float(row["round"]), "score": row["score"]} | row["scalars"]
            self.tracker.log_round(trial_id, row["steps"], row["time_ms"], _within_limit(values))

    def run_tags(self, record: TrialRecord) -> dict[str, str]:
        """Tags of a run in MLflow."""
        tags = {
            "selmix.trial_id": record.trial_id,
            "selmix.kind": record.kind,
            "selmix.objective": record.objective,
            "selmix.seed": str(record.seed),
            "selmix.config_hash": record.config_hash,
            "selmix.state": record.state,
        }
        if record.replicate_of is not None:
            tags["selmix.replicate_of"] = record.replicate_of
        if record.arm:
            tags["selmix.arm"] = record.arm
        # `second` deviates only as an oracle, whose meaning says more than its value.
        for name, meaning in FinetuneConfig(**record.config).deviations().items():
            tags[DEVIATION_TAGS[name]] = meaning if name == "second" else str(record.config[name])
        return self.tags | tags

    def run_params(self, record: TrialRecord) -> dict[str, Any]:
        """Params of a run in MLflow."""
        return self.params | {"objective": record.objective, "seed": record.seed} | record.config

    # -- it reports ---------------------------------------------------------------------------------------

    @never_raises
    def on_round(self, trial_id: str, report: Mapping[str, Any]) -> None:
        """Write the row of a report to our file and to MLflow, once.

        Args:
            trial_id: of the run.
            report: of the trainable.
        """
        record = self._live[trial_id]
        record.cost_s = report["cost_s"]
        row = report["row"]
        # A run that resumes repeats the rounds after its checkpoint, with the same numbers.
        if row is None or row["round"] <= self._logged.get(trial_id, -1):
            return
        self._logged[trial_id] = row["round"]
        self.folder.append_round(trial_id, row)
        unit = unit_of(self._metrics.get(record.objective))
        # One decimal more than on screens: rounds differ by less than trials do.
        score = number(row["score"], replace(unit, decimals=unit.decimals + 1))
        self.note(trial_id, f"round {row['round']}, {row['steps']} steps, score {score}")
        self._log_rounds(trial_id, [row])

    @never_raises
    def on_checkpoint(self, trial_id: str, address: str) -> None:
        """Record a checkpoint that is on storage: the run can resume from it or, if it is its last, is finished.

        Args:
            trial_id: of the run.
            address: of the checkpoint.
        """
        record = self._live.get(trial_id)
        # A checkpoint may arrive after the end of its run.
        if record is None:
            return
        with tempfile.TemporaryDirectory(prefix="selmix-") as scratch:
            self.folder.fetch_checkpoint(address, ("trial.json",), Path(scratch))
            if json.loads((Path(scratch) / "trial.json").read_text())["finished"]:
                self._finish(record, address, Path(scratch))
                return
        previous, record.checkpoint = record.checkpoint, self.folder.relative_checkpoint(address)
        self.folder.save_trial(record)
        self._safe_ms[trial_id] = now_ms()
        # The run makes progress, so its losses were not its own fault.
        self._losses_in_a_row.pop(trial_id, None)
        # Only now, when the record names the new one: at any instant a checkpoint on record exists.
        if previous is not None and previous != record.checkpoint:
            self.folder.drop(previous)

    def _finish(self, record: TrialRecord, checkpoint: str, scratch: Path) -> None:
        """Take over the outcome from the last checkpoint, and record it.

        Args:
            record: of the run.
            checkpoint: address of its last checkpoint.
            scratch: folder for temporary files.
        """
        # The files first: a record that is FINISHED vouches for them.
        home = self.folder.trial_folder(record.trial_id)
        self.folder.fetch_checkpoint(checkpoint, OUTCOME_FILES, home)
        for name in OUTCOME_FILES:
            self.folder.store.publish(home / name)
        self.folder.fetch_checkpoint(checkpoint, ("figures.json",), scratch)
        outcome = json.loads((scratch / "figures.json").read_text())
        record.select = {key: from_document(Figure, estimate) for key, estimate in outcome["select"].items()}
        for key in ("weights_digest", "round", "steps", "score", "feasible", "stop_reason"):
            setattr(record, key, outcome[key])
        record.state = "FAILED" if outcome["failed"] else "FINISHED"
        record.error = record.stop_reason if outcome["failed"] else None
        record.checkpoint = None
        self._end(record)
        self.folder.drop(self.folder.relative_checkpoint(checkpoint))

    # -- it ends ------------------------------------------------------------------------------------------

    @never_raises
    def on_failed(self, trial_id: str, outcome: RunOutcome) -> None:
        """End a run that failed for good; its log keeps the traceback as the worker had it.

        Args:
            trial_id: of the run.
            outcome: of the run.
        """
        record = self._live[trial_id]
        self.note(trial_id, outcome.details)
        record.state, record.error, record.checkpoint = "FAILED", outcome.reason, None
        self._end(record)

    @never_raises
    def on_pruned(self, trial_id: str, outcome: RunOutcome) -> None:
        """End a run that was stopped early: its rounds are kept, and it has neither weights nor predictions.

        Args:
            trial_id: of the run.
            outcome: of the run.
        """
        record = self._live[trial_id]
        checkpoint, record.checkpoint = record.checkpoint, None
        record.state, record.stop_reason = "PRUNED", outcome.reason
        record.round, record.steps, record.score = outcome.round, outcome.steps, outcome.score
        record.feasible = outcome.violation == 0.0
        self._end(record)
        # Only now, when the record does not name it any more.
        if checkpoint is not None:
            self.folder.drop(checkpoint)

    def losses_in_a_row(self, trial_id: str) -> int:
        """Number of times that a run was interrupted since its last checkpoint."""
        return self._losses_in_a_row.get(trial_id, 0)

    @never_raises
    def on_interrupted(self, trial_id: str, outcome: RunOutcome) -> None:
        """Record that a run was interrupted and will resume from its last checkpoint, and warn the user.

        Args:
            trial_id: of the run.
            outcome: of the attempt that ended.
        """
        record = self._live.pop(trial_id)
        self.note(trial_id, outcome.details)
        lost_s = (now_ms() - self._safe_ms[trial_id]) / 1000
        record.state, record.losses, record.lost_s = "INTERRUPTED", record.losses + 1, record.lost_s + lost_s
        self._losses_in_a_row[trial_id] = self.losses_in_a_row(trial_id) + 1
        begins = "from its last checkpoint" if record.checkpoint else "from its beginning"
        exclusive = ", exclusive (nothing runs beside it)" if record.alone else ""
        text = f"{outcome.reason}; it resumes {begins}{exclusive}; {lost_s:.0f} s of work were lost"
        self.note(trial_id, text)
        self.folder.save_trial(record)
        self.progress.interrupted()
        self.progress.warn(f"{trial_id}: {text}")

    @never_raises
    def on_drain(self) -> None:
        """End every run that is still alive as INTERRUPTED: it resumes at the next launch."""
        for record in list(self._live.values()):
            record.state = "INTERRUPTED"
            self._end(record)

    def add(self, record: TrialRecord, artifacts: Sequence[Path] = ()) -> None:
        """Put a baseline on record that has ended: open and end it at once.

        Args:
            record: of the baseline.
            artifacts: files for MLflow.
        """
        # Opening resets both.
        state, error = record.state, record.error
        self.open(record)
        record.state, record.error = state, error
        self._end(record, artifacts)

    def kill_unfinished(self) -> dict[str, list[int]]:
        """End every unfinished run as KILLED: nothing resumes it.

        Returns:
            Study -> numbers of the trials among the runs.
        """
        killed: dict[str, list[int]] = defaultdict(list)
        for record in self.folder.load_trials():
            if record.state in {"RUNNING", "INTERRUPTED"}:
                record.state, record.checkpoint = "KILLED", None
                # Without params: those of its MLflow run were sent when it was opened.
                record.mlflow_run_id = self._tracked(record, {}) or record.mlflow_run_id
                self._end(record)
                if record.kind == "trial":
                    killed[record.study].append(record.number)
        return killed

    def note(self, trial_id: str, text: str) -> None:
        """Append an event to the log of a run.

        Args:
            trial_id: of the run.
            text: of the event; an empty one is left out.
        """
        if text:
            append_log(self.folder, self.folder.trial_log_path(trial_id), text)

    def _end(self, record: TrialRecord, artifacts: Sequence[Path] | None = None) -> None:
        record.ended_ms = now_ms()
        self.note(record.trial_id, " ".join(filter(None, (record.state, record.stop_reason, record.error))))
        if record.state == "FAILED":
            if record.kind == "trial":
                self._failed.add(record.trial_id)
            self.progress.warn(f"{record.trial_id} failed: {record.error}")
        self.folder.save_trial(record)
        self.sync(record, artifacts)
        self._live.pop(record.trial_id, None)
        unit = unit_of(self._metrics.get(record.objective))
        self.progress.ended(record.trial_id, record.state, record.score, record.cost_s, unit)

    # -- MLflow -------------------------------------------------------------------------------------------

    def sync(self, record: TrialRecord, artifacts: Sequence[Path] | None = None) -> None:
        """Send the end of a run to MLflow; sent again after a kill it changes nothing.

        Args:
            record: of the run.
            artifacts: files to send; None for the table of rounds.
        """
        tags = {"selmix.state": record.state, "selmix.feasible": str(record.feasible).lower()}
        if record.stop_reason is not None:
            tags["selmix.stop_reason"] = record.stop_reason
        if artifacts is None:
            table = self.folder.store.current(self.folder.rounds_table_path(record.trial_id))
            artifacts = [table] if table.is_file() else []
        # Metrics of a run that did not finish would be mistaken for those of its chosen round.
        best = Best()
        if record.state == "FINISHED":
            best = Best(record.select, self._metrics.get(record.objective), record.score)
        self.tracker.finish_trial(
            record.trial_id, MLFLOW_STATUS.get(record.state, "KILLED"), record.ended_ms or now_ms(),
            record.steps or 0, best, tags, artifacts,
        )  # fmt: skip

    def replay(self, record: TrialRecord) -> None:
        """Send a finished run to MLflow again: what a killed driver had not sent arrives, and nothing twice."""
        record.mlflow_run_id = self._tracked(record) or record.mlflow_run_id
        self._log_rounds(record.trial_id, self.folder.rounds(record.trial_id))
        self.sync(record)
