"""The life of every run of a sweep, in our records and in MLflow: opened, reported, finished, failed.

Called from Tune's searcher and callback, where an exception would end the whole sweep: the methods named
``on_*`` never raise but note the problem and go on.
"""

from __future__ import annotations

import functools
import json
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from orchestrator.clock import now_ms
from orchestrator.progress import Progress
from orchestrator.records.folder import RunFolder, TrialRecord
from orchestrator.records.logs import append_log
from orchestrator.results.departures import departures
from orchestrator.tracking.tracker import Tracker

P = ParamSpec("P")
OUTCOME_FILES = ("weights.safetensors", "predictions.npz", "rounds.parquet")
MLFLOW_STATUS = {"FINISHED": "FINISHED", "PRUNED": "FINISHED", "FAILED": "FAILED"}


def never_raises(
    method: Callable[Concatenate[TrialBook, P], None],
) -> Callable[Concatenate[TrialBook, P], None]:
    """What goes wrong in a report is noted, not raised into Tune."""

    def guarded(self: TrialBook, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # a boundary: see the docstring of the module
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.problems.append(f"{method.__name__}: {error!r} ({where.name}, line {where.lineno})")

    return functools.update_wrapper(guarded, method)


class TrialBook:
    """Records of the runs that are alive now, and what is written of them.

    Args:
        folder: of the sweep. tracker: of MLflow. progress: what the user sees.
        tags: put on every MLflow run of the sweep. params: what is fixed for all (``data.*``, ``model.*``, ...).
        problems: where what went wrong in a report is noted.
    """

    def __init__(
        self,
        folder: RunFolder,
        tracker: Tracker,
        progress: Progress,
        tags: dict[str, str],
        params: dict[str, Any],
    ) -> None:
        self.folder, self.tracker, self.progress = folder, tracker, progress
        self.tags, self.params = tags, params
        self.problems: list[str] = []
        self._live: dict[str, TrialRecord] = {}
        self._logged: dict[str, int] = {}
        self._safe_ms: dict[str, int] = {}  # run -> since when what it does is not on storage
        self._lost_in_a_row: dict[str, int] = {}

    def open(self, record: TrialRecord) -> TrialRecord:
        """Put a run on record as RUNNING, with its MLflow run, before it starts.

        A run that goes on from a checkpoint keeps the rounds up to it; later ones are run again, bit-equal.
        """
        record.state, record.error, record.stop_reason = "RUNNING", None, None
        record.started_ms = record.started_ms or now_ms()
        record.ended_ms = None
        rounds = self.folder.rounds(record.trial_id)
        self._logged[record.trial_id] = max((row["round"] for row in rounds), default=-1)
        # The record stands before the MLflow run does: after a kill between the two the run is found by its tag.
        self.folder.save_trial(record)
        run_id = self.tracker.open_trial(
            record.trial_id, mlflow_name(record), self.run_tags(record), self.run_params(record),
            record.started_ms, record.mlflow_run_id,
        )  # fmt: skip
        if run_id is not None and run_id != record.mlflow_run_id:
            record.mlflow_run_id = run_id
            self.folder.save_trial(record)
        self._live[record.trial_id] = record
        self._safe_ms[record.trial_id] = now_ms()
        begins = f"goes on from {record.checkpoint}" if record.checkpoint else "begins"
        self.note(record.trial_id, f"{begins}: seed {record.seed}, {json.dumps(record.config)}")
        self._log_rows(record.trial_id, rounds)
        self.progress.started()
        return record

    def _log_rows(self, trial_id: str, rows: list[dict[str, Any]]) -> None:
        """Send rounds to MLflow; those that are there already are dropped there."""
        for row in rows:
            values = {f"select/{key}": value for key, value in row["select"].items()}
            values |= {"round": float(row["round"]), "score": row["score"]} | row["scalars"]
            self.tracker.log_round(trial_id, row["steps"], row["time_ms"], values)

    def run_tags(self, record: TrialRecord) -> dict[str, str]:
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
        return self.tags | tags | departures(record.config)

    def run_params(self, record: TrialRecord) -> dict[str, Any]:
        return self.params | {"objective": record.objective, "seed": record.seed} | record.config

    @never_raises
    def on_round(self, trial_id: str, result: dict[str, Any]) -> None:
        """One report of a run: its row goes to our file and to MLflow, once."""
        record = self._live[trial_id]
        record.cost_s = result["cost_s"]
        row = result["row"]
        if row is None or row["round"] <= self._logged.get(trial_id, -1):
            return
        self._logged[trial_id] = row["round"]
        self.folder.append_round(trial_id, row)
        self.note(trial_id, f"round {row['round']}, {row['steps']} steps, score {100 * row['score']:.2f}")
        self._log_rows(trial_id, [row])

    @never_raises
    def on_checkpoint(self, trial_id: str, path: str) -> None:
        """A checkpoint is on storage: the run can go on from it, or, if it is its last, is finished."""
        record = self._live.get(trial_id)
        if record is None:
            return
        with tempfile.TemporaryDirectory(prefix="selmix-") as scratch:
            self.folder.fetch_checkpoint(path, ("trial.json",), Path(scratch))
            if json.loads((Path(scratch) / "trial.json").read_text())["finished"]:
                self._finish(record, path, Path(scratch))
                return
        previous, record.checkpoint = record.checkpoint, self.folder.relative_checkpoint(path)
        self.folder.save_trial(record)
        self._safe_ms[trial_id] = now_ms()
        self._lost_in_a_row.pop(trial_id, None)
        if previous is not None and previous != record.checkpoint:
            self.folder.drop(previous)

    def _finish(self, record: TrialRecord, checkpoint: str, scratch: Path) -> None:
        """Take over the outcome of the last checkpoint; the record says FINISHED only once the files are there."""
        home = self.folder.trial_folder(record.trial_id)
        self.folder.fetch_checkpoint(checkpoint, OUTCOME_FILES, home)
        for name in OUTCOME_FILES:
            self.folder.publish(home / name)
        self.folder.fetch_checkpoint(checkpoint, ("figures.json",), scratch)
        outcome = json.loads((scratch / "figures.json").read_text())
        record.select, record.weights_digest = outcome["select"], outcome["weights_digest"]
        for key in ("round", "steps", "score", "feasible", "stop_reason"):
            setattr(record, key, outcome[key])
        record.state = "FAILED" if outcome["failed"] else "FINISHED"
        record.error = record.stop_reason if outcome["failed"] else None
        record.checkpoint = None
        self._end(record)
        self.folder.drop(self.folder.relative_checkpoint(checkpoint))

    @never_raises
    def on_error(self, trial_id: str, error: str, details: str = "") -> None:
        """A run crashed for good; its log keeps the ``details``, the traceback as the worker had it."""
        record = self._live[trial_id]
        self.note(trial_id, details)
        record.state, record.error, record.checkpoint = "FAILED", error, None
        self._end(record)

    def lost_in_a_row(self, trial_id: str) -> int:
        """How often a run broke off since it last got to a checkpoint."""
        return self._lost_in_a_row.get(trial_id, 0)

    @never_raises
    def on_lost(self, trial_id: str, error: str, details: str = "") -> None:
        """A run broke off and goes on from its last checkpoint: a row in its log, a word to the user."""
        record = self._live.pop(trial_id)
        self.note(trial_id, details)
        lost_s = (now_ms() - self._safe_ms[trial_id]) / 1000
        record.state, record.losses, record.lost_s = "INTERRUPTED", record.losses + 1, record.lost_s + lost_s
        self._lost_in_a_row[trial_id] = self.lost_in_a_row(trial_id) + 1
        begins = "from its last checkpoint" if record.checkpoint else "from its beginning"
        alone = ", with nothing beside it" if record.alone else ""
        text = f"{error}; it goes on {begins}{alone}, {lost_s:.0f} s of it were lost"
        self.note(trial_id, text)
        self.folder.save_trial(record)
        self.progress.broke_off()
        self.progress.warn(f"{trial_id}: {text}")

    @never_raises
    def on_drain(self) -> None:
        """Every run that is still alive is INTERRUPTED: it goes on at the next launch."""
        for record in list(self._live.values()):
            record.state = "INTERRUPTED"
            self._end(record)

    def add(self, record: TrialRecord, started_ms: int, artifacts: list[Path]) -> None:
        """Put a baseline on record that ran elsewhere: opened and ended at once."""
        record.started_ms, state = started_ms, record.state
        self.open(record)
        record.state = state
        self._end(record, artifacts)

    def kill(self, record: TrialRecord) -> None:
        """An unfinished run that nobody goes on with."""
        record.state, record.checkpoint = "KILLED", None
        record.mlflow_run_id = self.tracker.open_trial(
            record.trial_id, mlflow_name(record), self.run_tags(record), {}, record.started_ms or now_ms(),
            record.mlflow_run_id,
        ) or record.mlflow_run_id  # fmt: skip
        self._end(record)

    def note(self, trial_id: str, text: str) -> None:
        """Keep an event in the run's own log."""
        if text:
            append_log(self.folder, self.folder.trial_log_path(trial_id), text)

    def _end(self, record: TrialRecord, artifacts: list[Path] | None = None) -> None:
        record.ended_ms = now_ms()
        self.note(record.trial_id, " ".join(filter(None, (record.state, record.stop_reason, record.error))))
        if record.state == "FAILED" and record.error:
            self.progress.warn(f"{record.trial_id} failed: {record.error}")
        self.folder.save_trial(record)
        self.sync(record, artifacts)
        self._live.pop(record.trial_id, None)
        self.progress.ended(record.trial_id, record.state, record.score, record.cost_s)

    def sync(self, record: TrialRecord, artifacts: list[Path] | None = None) -> None:
        """Tell MLflow the end of a run (again, after a kill: the same points are dropped there)."""
        tags = {"selmix.state": record.state, "selmix.feasible": str(record.feasible).lower()}
        if record.stop_reason is not None:
            tags["selmix.stop_reason"] = record.stop_reason
        if artifacts is None:
            table = self.folder.stored(self.folder.rounds_table_path(record.trial_id))
            artifacts = [table] if table.is_file() else []
        best = record.select if record.state == "FINISHED" else {}
        self.tracker.finish_trial(
            record.trial_id, MLFLOW_STATUS.get(record.state, "KILLED"), record.ended_ms or now_ms(),
            record.steps or 0, best, tags, artifacts,
        )  # fmt: skip

    def replay(self, record: TrialRecord) -> None:
        """Send a finished run to MLflow again: what a killed driver had not sent arrives, nothing twice."""
        record.mlflow_run_id = self.tracker.open_trial(
            record.trial_id, mlflow_name(record), self.run_tags(record), self.run_params(record),
            record.started_ms or now_ms(), record.mlflow_run_id,
        ) or record.mlflow_run_id  # fmt: skip
        self._log_rows(record.trial_id, self.folder.rounds(record.trial_id))
        self.sync(record)


def mlflow_name(record: TrialRecord) -> str:
    """``trial-007``, ``trial-007-seed-1`` or ``baseline-NAME``."""
    if record.kind == "baseline":
        return f"baseline-{record.name}"
    if record.kind == "replicate":
        return "-".join(record.trial_id.split("/")[1:])
    return record.name
