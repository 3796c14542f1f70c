"""The runs of a sweep in MLflow.

Only the driver writes. A run is found by its tags before it is created, and metrics keep the time stamps that our own
record has, so sending everything again changes nothing: that is how a resume catches up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.credentials import masked, scrubbed
from orchestrator.errors import PreflightError
from orchestrator.messages import first_line
from orchestrator.records.types import Metrics
from orchestrator.tracking.address import first_opening, sqlite_path
from orchestrator.tracking.client import open_client, speaking
from orchestrator.tracking.outbox import Action, Outbox, Points, Verdict, judge
from orchestrator.tracking.values import (
    MAX_SCALARS,
    estimates,
    frozen_params,
    metrics_to_keep,
    tag_filter,
    tag_texts,
)

SWEEP_ID, TRIAL_ID, KIND = "selmix.sweep_id", "selmix.trial_id", "selmix.kind"
PARENT, RUN_NAME = "mlflow.parentRunId", "mlflow.runName"
_BATCH = 100


class Tracker:
    """The runs of one sweep in MLflow.

    Args:
        address: of the store, as :func:`orchestrator.tracking.address.tracking_address` gives it.
        experiment: name; made if there is none.
        sweep_id: on every run.
        artifacts: folder for artifacts where the store is a file of our own.
        note: is called with what had to be given up.
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
        with speaking(address), first_opening(address):
            self.experiment_id = self._find_experiment(experiment, artifacts)
        self.parent_id: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what hangs on its callbacks; a copy writes nothing

    def _find_experiment(self, name: str, artifacts: Path) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                raise PreflightError(
                    f"MLflow at {masked(self._address)}: experiment {name} is deleted there; restore it, or launch "
                    "with name=NEW"
                )
            return str(found.experiment_id)
        local = sqlite_path(self._address) is not None
        location = artifacts.absolute().as_uri() if local else None
        return str(self._client.create_experiment(name, artifact_location=location))

    # -- the sweep ----------------------------------------------------------------------------------------

    def open_sweep(self, name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> str:
        """The sweep's parent run, found or created, and RUNNING.

        Raises:
            PreflightError: MLflow does not take it.
        """
        with speaking(self._address):
            marks = {SWEEP_ID: self._sweep_id, KIND: "sweep"}
            run_id = self._find(marks) or self._create(name, {**tags, **marks}, None)
            self._client.update_run(run_id, status="RUNNING")
            self._set(run_id, params, tags)
        self.parent_id = run_id
        return run_id

    def finish_sweep(
        self, status: str, ended_ms: int, values: Mapping[str, float | None], tags: Mapping[str, str],
        artifacts: Sequence[Path] = (),
    ) -> None:  # fmt: skip
        """End the parent run with the figures of its winners."""
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
        """End the runs that a killed driver left RUNNING; those that go on are opened again."""
        with speaking(self._address):
            for run in self._search(
                f"{tag_filter({SWEEP_ID: self._sweep_id})} AND attributes.status = 'RUNNING'"
            ):
                if run.info.run_id != self.parent_id:
                    self._client.set_terminated(run.info.run_id, status="KILLED", end_time=ended_ms)

    def close(self, timeout_s: float = 30.0) -> int:
        """Send what waits; the number of writes that never arrived."""
        return self._outbox.close(timeout_s)

    # -- its runs -----------------------------------------------------------------------------------------

    def open_trial(
        self, trial_id: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any], started_ms: int,
        run_id: str | None,
    ) -> str | None:  # fmt: skip
        """The MLflow run of a trial, found or created, and RUNNING.

        Returns:
            Its id; None where MLflow is away: it is opened as soon as it is back.
        """

        def act() -> None:
            known = run_id or self._runs.get(trial_id)
            found = known if known and self._exists(known) else self._find({TRIAL_ID: trial_id})
            chosen = found or self._create(name, {**tags, TRIAL_ID: trial_id}, started_ms)
            self._runs[trial_id] = chosen
            self._client.update_run(chosen, status="RUNNING")
            self._set(chosen, params, tags)

        if not self._outbox.down and trial_id not in self._queued:
            try:
                act()
                return self._runs[trial_id]
            except Exception as error:  # a boundary: whatever MLflow says, the trial must start
                if judge(error) is Verdict.PERMANENT:
                    self._give_up(f"{trial_id}: opening its run", error)
                    return None
        self._queued.add(trial_id)
        self._outbox.put(Action(trial_id, "opening its run", act))
        return run_id

    def run_id(self, trial_id: str) -> str | None:
        """The run of a trial that was opened; None while MLflow has been away since."""
        return self._runs.get(trial_id)

    def log_round(self, trial_id: str, steps: int, time_ms: int, values: Mapping[str, float]) -> None:
        """The figures of a round at its number of SGD steps; returns at once."""
        self._outbox.put(Points(trial_id, steps, time_ms, metrics_to_keep(values, MAX_SCALARS)))

    def finish_trial(
        self, trial_id: str, status: str, ended_ms: int, steps: int,
        best: Metrics, tags: Mapping[str, str], artifacts: Sequence[Path],
    ) -> None:  # fmt: skip
        """The figures of the chosen round, the artifacts, and the end of a run; returns at once."""

        def act() -> None:
            run = self._runs[trial_id]
            self._log(run, estimates(best), ended_ms, steps)
            self._set(run, {}, tags)
            for path in artifacts:
                self._client.log_artifact(run, str(path))
            self._client.set_terminated(run, status=status, end_time=ended_ms)

        self._outbox.put(Action(trial_id, "its end", act))

    # -- calls --------------------------------------------------------------------------------------------

    def _find(self, marks: Mapping[str, str]) -> str | None:
        found = self._search(tag_filter({SWEEP_ID: self._sweep_id, **marks}), 1)
        return str(found[0].info.run_id) if found else None

    def _search(self, query: str, most: int = 1000) -> list[Any]:
        return list(self._client.search_runs([self.experiment_id], query, max_results=most))

    def _exists(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def _create(self, name: str, tags: Mapping[str, str], started_ms: int | None) -> str:
        parent = {PARENT: self.parent_id} if self.parent_id is not None else {}
        texts = tag_texts({**tags, SWEEP_ID: self._sweep_id, RUN_NAME: name, **parent})
        run = self._client.create_run(self.experiment_id, start_time=started_ms, tags=texts, run_name=name)
        return str(run.info.run_id)

    def _set(self, run_id: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        # Params go alone: one that was sent with another value fails its whole batch.
        listed = [Param(key, text) for key, text in frozen_params(params).items()]
        for start in range(0, len(listed), _BATCH):
            self._client.log_batch(run_id, params=listed[start : start + _BATCH])
        if tags:
            self._client.log_batch(run_id, tags=[RunTag(key, text) for key, text in tag_texts(tags).items()])

    def _log(self, run_id: str, values: Mapping[str, float], time_ms: int, step: int) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(key, value, time_ms, step) for key, value in values.items()]
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(run_id, metrics=metrics[start : start + 1000])

    def _write_points(self, key: str, points: list[Points]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, v, p.time_ms, p.step) for p in points for name, v in p.values.items()]
        self._client.log_batch(self._runs[key], metrics=metrics)

    def _give_up(self, what: str, error: Exception) -> None:
        self._note(f"MLflow: {what} was refused: {scrubbed(first_line(error), self._address)}")
