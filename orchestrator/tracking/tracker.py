"""Runs of a sweep in MLflow.

Only the driver writes. A run is looked up by its tags before it is created, and metrics carry the time stamps of our
own records, so that sending everything again changes nothing: that is how a resume catches up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.credentials import masked, scrubbed
from orchestrator.errors import PreflightError
from orchestrator.messages import first_line
from orchestrator.tracking.address import first_opening, sqlite_path
from orchestrator.tracking.client import mlflow_errors, open_client
from orchestrator.tracking.outbox import Action, FailureKind, Outbox, Points, failure_kind
from orchestrator.tracking.values import (
    MAX_SCALARS,
    Best,
    frozen_params,
    metrics_to_keep,
    tag_filter,
    tag_texts,
)
from orchestrator.tracking.view import (
    KIND_TAG,
    NOTE_TAG,
    OWN_NOTE_TAG,
    RANK_TAG,
    SCORE,
    TRAINING,
    View,
    noted,
)

SWEEP_ID, TRIAL_ID, KIND = "selmix.sweep_id", "selmix.trial_id", "selmix.kind"
PARENT, RUN_NAME = "mlflow.parentRunId", "mlflow.runName"
# MLflow refuses larger batches.
_PARAMS_PER_BATCH = 100
_METRICS_PER_BATCH = 1000


class Tracker:
    """Runs of one sweep in MLflow: a parent run, and a child run for each trial, replicate and baseline.

    Args:
        address: tracking address, from :func:`orchestrator.tracking.address.tracking_address`.
        experiment: name of the experiment; created if there is none.
        sweep_id: tag of every run, by which the runs of this sweep are found.
        artifacts: folder for artifacts where the store is an SQLite file; a server has its own.
        note: called with a line for each write that had to be dropped.
    Raises:
        PreflightError: the store cannot be opened.
    """

    def __init__(
        self, address: str, experiment: str, sweep_id: str, artifacts: Path, note: Callable[[str], None]
    ) -> None:
        self._address, self._sweep_id, self._note = address, sweep_id, note
        self._client = open_client(address)
        self._runs: dict[str, str] = {}
        self._queued: set[str] = set()
        self._outbox = Outbox(self._write_points, self._give_up)
        # Under the lock: two drivers that both see no experiment would both create it.
        with mlflow_errors(address), first_opening(address):
            self.experiment_id = self._find_experiment(experiment, artifacts)
        self.parent_id: str | None = None
        self.views: dict[str, str] = {}
        """Objective -> key of its view, of those that MLflow has taken."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks with all that they refer to; a copy needs no connection, for it writes nothing.
        return {}

    def _find_experiment(self, name: str, artifacts: Path) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            # MLflow keeps the name of a deleted experiment taken, and refuses runs in it.
            if experiment.lifecycle_stage == "deleted":
                raise PreflightError(
                    f"MLflow at {masked(self._address)}: experiment {name} is deleted there; restore it, or launch "
                    "with name=NEW"
                )
            return str(experiment.experiment_id)
        # Without a location MLflow would put the artifacts of an SQLite store into the working folder.
        local = sqlite_path(self._address) is not None
        location = artifacts.absolute().as_uri() if local else None
        return str(self._client.create_experiment(name, artifact_location=location))

    # -- the sweep ----------------------------------------------------------------------------------------

    def open_sweep(self, name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> str:
        """Find or create the parent run of the sweep and set it RUNNING.

        Args:
            name: name of the run.
            tags: tags of the run.
            params: params of the run; they cannot change later.
        Returns:
            Id of the run.
        Raises:
            PreflightError: MLflow does not accept it.
        """
        with mlflow_errors(self._address):
            marks = {SWEEP_ID: self._sweep_id, KIND: "sweep"}
            run_id = self._find(marks) or self._create(name, {**tags, **marks}, None)
            self._client.update_run(run_id, status="RUNNING")
            self._set(run_id, params, tags)
        self.parent_id = run_id
        return run_id

    def describe(
        self, views: Mapping[str, View], further: Sequence[View] = (), note: str | None = None
    ) -> None:
        """Let the experiment's pages open on the sweep's runs; returns at once.

        Args:
            views: objective -> view of its runs, which links name.
            further: views that only the note names.
            note: of the experiment, in Markdown; its first line is all that the pages show unasked. None leaves it.
        """

        def act() -> None:
            experiment = self._client.get_experiment(self.experiment_id)
            tags = dict(view.to_tag() for view in (*views.values(), *further))
            # A kind that a user gave stands.
            tags |= {KIND_TAG: experiment.tags.get(KIND_TAG, TRAINING)}
            if note is not None:
                before, own = experiment.tags.get(NOTE_TAG, ""), experiment.tags.get(OWN_NOTE_TAG, "")
                tags |= {NOTE_TAG: noted(note, before, own), OWN_NOTE_TAG: note}
            for key, text in tags.items():
                self._client.set_experiment_tag(self.experiment_id, key, text)
            self.views = {**self.views, **{objective: view.key for objective, view in views.items()}}

        self._outbox.put(Action("sweep", "views and note of its experiment", act))

    def settle(self, timeout_s: float) -> None:
        """Wait up to ``timeout_s`` until the writes so far are sent."""
        self._outbox.flush(timeout_s)

    def finish_sweep(
        self, status: str, ended_ms: int, values: Mapping[str, float | None], tags: Mapping[str, str],
        artifacts: Sequence[Path] = (),
    ) -> None:  # fmt: skip
        """End the parent run; returns at once.

        Args:
            status: of MLflow: FINISHED, FAILED or KILLED.
            ended_ms: end, in milliseconds since the epoch.
            values: metrics of the winners.
            tags: tags to set.
            artifacts: files to store with the run.
        """
        parent = self.parent_id

        def act() -> None:
            if parent is None:
                return
            self._log(parent, metrics_to_keep(values), ended_ms, 0)
            self._set(parent, {}, tags)
            for path in artifacts:
                self._client.log_artifact(parent, str(path))
            self._client.set_terminated(parent, status=status, end_time=ended_ms)

        self._outbox.put(Action("sweep", "end of the sweep", act))

    def reap(self, ended_ms: int) -> None:
        """End the runs that a killed driver left RUNNING; :meth:`open_trial` opens those that resume."""
        with mlflow_errors(self._address):
            for run in self._search(
                f"{tag_filter({SWEEP_ID: self._sweep_id})} AND attributes.status = 'RUNNING'"
            ):
                if run.info.run_id != self.parent_id:
                    self._client.set_terminated(run.info.run_id, status="KILLED", end_time=ended_ms)

    def close(self, timeout_s: float = 30.0) -> int:
        """Send the waiting writes; returns the number of those that never arrived."""
        return self._outbox.close(timeout_s)

    # -- its runs -----------------------------------------------------------------------------------------

    def open_trial(
        self, trial_id: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any], started_ms: int,
        run_id: str | None,
    ) -> str | None:  # fmt: skip
        """Find or create the MLflow run of a trial and set it RUNNING.

        Args:
            trial_id: trial, replicate or baseline.
            name: name of the run.
            tags: tags of the run.
            params: params of the run.
            started_ms: start, in milliseconds since the epoch.
            run_id: id of the run in our record; where that is None, it is looked up by its tags.
        Returns:
            Id of the run; None while MLflow is away: the run is then opened once MLflow is back.
        """

        def act() -> None:
            recorded = run_id or self._runs.get(trial_id)
            # The user may have deleted a recorded run in MLflow: then a new one is made.
            existing = recorded if recorded and self._exists(recorded) else self._find({TRIAL_ID: trial_id})
            if existing:
                self._client.update_run(existing, status="RUNNING")
            # A new one is RUNNING.
            self._runs[trial_id] = existing or self._create(name, {**tags, TRIAL_ID: trial_id}, started_ms)

        def fill() -> None:
            # Without a run its opening was refused, and said so.
            if trial_id in self._runs:
                self._set(self._runs[trial_id], params, tags)

        # Directly where possible, so that the record gets the id at once; the rest is not waited for. A run whose
        # opening is queued must stay in the queue: two openings side by side could both find nothing and create it
        # twice.
        if not self._outbox.down and trial_id not in self._queued:
            try:
                act()
                self._outbox.put(Action(trial_id, "its description", fill))
                return self._runs[trial_id]
            # A boundary: whatever MLflow answers, the trial must start.
            except Exception as error:
                if failure_kind(error) is FailureKind.PERMANENT:
                    self._give_up(f"{trial_id}: opening its run", error)
                    return None
        self._queued.add(trial_id)
        self._outbox.put(Action(trial_id, "opening its run", act))
        self._outbox.put(Action(trial_id, "its description", fill))
        return run_id

    def run_id(self, trial_id: str) -> str | None:
        """Id of the MLflow run of an opened trial; None while its opening waits for MLflow."""
        return self._runs.get(trial_id)

    def log_round(self, trial_id: str, steps: int, time_ms: int, values: Mapping[str, float]) -> None:
        """Log the metrics of a round; returns at once.

        Args:
            trial_id: an opened trial.
            steps: SGD steps so far, the step of the metrics in MLflow.
            time_ms: time stamp from our record, the same whenever the round is sent again.
            values: metric -> value, at most MAX_SCALARS.
        """
        self._outbox.put(Points(trial_id, steps, time_ms, metrics_to_keep(values, MAX_SCALARS)))

    def finish_trial(
        self, trial_id: str, status: str, ended_ms: int, steps: int,
        best: Best, tags: Mapping[str, str], artifacts: Sequence[Path],
    ) -> None:  # fmt: skip
        """End the run of a trial; returns at once.

        Args:
            trial_id: an opened trial.
            status: of MLflow: FINISHED, FAILED or KILLED.
            ended_ms: end, in milliseconds since the epoch.
            steps: SGD steps at the chosen round.
            best: score and metrics of the chosen round.
            tags: tags to set.
            artifacts: files to store with the run.
        """

        def act() -> None:
            run = self._runs[trial_id]
            self._log(run, best.metrics(), ended_ms, steps)
            self._set(run, {}, tags)
            for path in artifacts:
                self._client.log_artifact(run, str(path))
            if best.select:
                self._client.log_dict(run, best.to_document(), "best.json")
            self._client.set_terminated(run, status=status, end_time=ended_ms)

        self._outbox.put(Action(trial_id, "its end", act))

    def rank_trial(
        self, trial_id: str, rank: int, score: float | None, time_ms: int, steps: int, tags: Mapping[str, str]
    ) -> None:  # fmt: skip
        """Give a run its place in the table of the result; returns at once.

        Args:
            trial_id: an opened trial.
            rank: place, from 1.
            score: that ranks it there; None where that is its own.
            time_ms: time stamp of the score, later than the end of the run: the last one counts.
            steps: SGD steps at the chosen round.
            tags: further tags to set.
        """

        def act() -> None:
            run = self._runs[trial_id]
            self._log(run, metrics_to_keep({SCORE: score}), time_ms, steps)
            # Digits in front, because MLflow sorts tags as text.
            self._set(run, {}, {**tags, RANK_TAG: f"{rank:03d}"})

        self._outbox.put(Action(trial_id, "its rank", act))

    # -- calls --------------------------------------------------------------------------------------------

    def _find(self, marks: Mapping[str, str]) -> str | None:
        runs = self._search(tag_filter({SWEEP_ID: self._sweep_id, **marks}), 1)
        return str(runs[0].info.run_id) if runs else None

    def _search(self, query: str, limit: int = 1000) -> list[Any]:
        return list(self._client.search_runs([self.experiment_id], query, max_results=limit))

    def _exists(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            # One that was deleted in the pages can still be read, but takes nothing any more.
            stage = self._client.get_run(run_id).info.lifecycle_stage
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return bool(stage == "active")

    def _create(self, name: str, tags: Mapping[str, str], started_ms: int | None) -> str:
        parent = {PARENT: self.parent_id} if self.parent_id is not None else {}
        texts = tag_texts({**tags, SWEEP_ID: self._sweep_id, RUN_NAME: name, **parent})
        run = self._client.create_run(self.experiment_id, start_time=started_ms, tags=texts, run_name=name)
        return str(run.info.run_id)

    def _set(self, run_id: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        # Params apart from tags: one that MLflow has with another value fails its whole batch.
        listed = [Param(key, text) for key, text in frozen_params(params).items()]
        for start in range(0, len(listed), _PARAMS_PER_BATCH):
            self._client.log_batch(run_id, params=listed[start : start + _PARAMS_PER_BATCH])
        if tags:
            self._client.log_batch(run_id, tags=[RunTag(key, text) for key, text in tag_texts(tags).items()])

    def _log(self, run_id: str, values: Mapping[str, float], time_ms: int, step: int) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(key, value, time_ms, step) for key, value in values.items()]
        for start in range(0, len(metrics), _METRICS_PER_BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_BATCH])

    def _write_points(self, key: str, points: list[Points]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, v, p.time_ms, p.step) for p in points for name, v in p.values.items()]
        self._client.log_batch(self._runs[key], metrics=metrics)

    def _give_up(self, what: str, error: Exception) -> None:
        self._note(f"MLflow: {what} was refused: {scrubbed(first_line(error), self._address)}")
