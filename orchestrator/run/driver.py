"""One launch from its lease to its verdict: prepare, search, replicate, baselines, result.

Our records and Optuna's journal are the truth. A sweep that was killed goes on with a new Tuner in a new folder: its
searcher hands out what is unfinished, then asks the studies for what is missing.
"""

from __future__ import annotations

import contextlib
import os
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.build.base_model import prepare
from orchestrator.clock import now_ms, utc_now
from orchestrator.cluster.code_package import Package
from orchestrator.cluster.ray_session import Room, ray_cluster
from orchestrator.errors import NoFeasibleTrial, SelmixError, TooManyFailures
from orchestrator.progress import Progress
from orchestrator.provenance import environment
from orchestrator.records.folder import RunFolder
from orchestrator.records.lease import Lease
from orchestrator.records.logs import append_log
from orchestrator.records.types import SweepState
from orchestrator.results.judge import Judge
from orchestrator.run.cancellation import cancel
from orchestrator.run.drain import Drain, Drained
from orchestrator.run.pending import Agenda
from orchestrator.run.recorder import TrialBook
from orchestrator.spec.schema import SweepSpec
from orchestrator.tracking.sweep_values import mlflow_params, parent_figures, parent_tags, trial_tags
from orchestrator.tracking.tracker import Tracker
from selmix.data.splits import SweepData


class Driver:
    """Drives one sweep under its lease.

    Args:
        state: of the sweep, saved whenever it changes. address: of MLflow, with its credentials.
        package: the code that the nodes of a running cluster are sent.
    """

    def __init__(
        self, spec: SweepSpec, folder: RunFolder, state: SweepState, data: SweepData, address: str,
        progress: Progress, lease: Lease, package: Package | None = None,
    ) -> None:  # fmt: skip
        self.spec, self.folder, self.state, self.data = spec, folder, state, data
        self.progress = progress
        self.lease, self.package = lease, package
        self.drain = Drain(progress, lease, self._leave)
        self._ending = threading.Lock()
        self.tracker = Tracker(
            address, spec.name, state.sweep_id, folder.runs / "mlartifacts" / spec.name, progress.warn
        )
        self.book = TrialBook(folder, self.tracker, progress, trial_tags(data.digests), mlflow_params(spec))

    def run(self) -> int:
        """The exit code of the launch; the state says the same for later ones."""
        self.drain.listen()
        try:
            code = self._run()
        except Drained:
            code = self._stop()
        except BaseException as error:
            # After a signal to the whole group Ray goes away under us, and errors with it: the record is whole.
            asked = self.drain.asked()
            if not asked:
                told = isinstance(error, SelmixError)
                text = str(error) if told else "".join(traceback.format_exception(error))
                append_log(self.folder, self.folder.log_path, text)
            code = self._stop(None if asked else str(error) or repr(error), error)
            if not asked:
                raise
        finally:
            self.drain.restore()
            self._flush()
        return code

    def _leave(self) -> None:
        """Stop from the watch's thread, while the main one hangs in Ray."""
        if not self._ending.locked():
            self._stop()
            self._flush()
            self.lease.release()
            os._exit(self.drain.exit_code)

    def _flush(self) -> None:
        """Logs are whole in the store before the lease is given back."""
        if self.folder.store is not None:
            self.folder.store.flush()

    def _run(self) -> int:
        self._open()
        if (
            self.state.exit_code == TooManyFailures.exit_code
        ):  # launched again to send what MLflow did not get
            self.state.state = "failed"
            self._end("FAILED", {})
            self._close()
            return self.state.exit_code
        if self.state.exit_code is None:
            self._prepare()
            with self._ray():
                resources = self.spec.resources
                room = Room(resources, self.spec.search.max_concurrent_trials, self.progress.warn)
                # A baseline is no trial of the search and takes one worker. Asked before the search: a node that is
                # lost meanwhile must not end the launch.
                baselines_room = Room(resources.model_copy(update={"workers": 1}), None, self.progress.warn)
                self._search(room)
                self._replicate(room)
                self._baselines(baselines_room)
            if self.drain.asked():
                raise Drained
        return self._finish()

    def _open(self) -> None:
        """The parent run in MLflow, and what a killed driver had not sent."""
        tags = parent_tags(self.spec, self.data.digests)
        self.state.parent_run_id = self.tracker.open_sweep(self.spec.name, tags, mlflow_params(self.spec))
        self.state.experiment_id = self.tracker.experiment_id
        self.folder.save_state(self.state)
        self.tracker.reap(now_ms())
        for record in [*self.folder.load_trials(), *self.folder.load_baselines()]:
            if record.state in ("FINISHED", "FAILED", "PRUNED"):
                self.book.replay(record)

    def _prepare(self) -> None:
        if not self.folder.stored(self.folder.base_weights).is_file():
            how = self.spec.pretrain.checkpoint or f"{self.spec.model.name}, {self.spec.recipe}"
            self.progress.say(f"base model: {how}")
        prepared = prepare(self.spec, self.data, self.folder)
        base = prepared.base
        if self.state.base.get("digest") == base["digest"]:
            base["cost_s"] = self.state.base["cost_s"]
        self.state.base = base
        self.state.data = {
            "class_names": list(self.data.class_names), "train_counts": self.data.train_counts.tolist(),
            "digests": dict(self.data.digests), "num_select": len(self.data.select),
            "group_names": list(self.data.group_names),
        }  # fmt: skip
        self.state.environment = environment(self.spec.resources.cpu)
        self.folder.save_state(self.state)
        self.agenda = Agenda(self.spec, self.folder, prepared)

    @contextlib.contextmanager
    def _ray(self) -> Iterator[None]:
        """Ray while the block lasts."""
        with ray_cluster(self.package):
            self.drain.listen()
            self.drain.at_once = False
            try:
                yield
            finally:
                self.drain.at_once = True

    def _search(self, room: Room) -> None:
        source, total, done = self.agenda.search()
        self._plan(total)
        if done < total:
            self.progress.phase("search", total, done)
            self._run_source(source, room)
        failed = [t for t in self.folder.load_trials() if t.kind == "trial" and t.state == "FAILED"]
        if len(failed) > self.spec.search.max_failed * total and not self.drain.asked():
            reasons = sorted({str(t.error) for t in failed})
            raise TooManyFailures(
                f"{self.spec.name}: {len(failed)} of {total} trials failed, search.max_failed allows "
                f"{100 * self.spec.search.max_failed:g} %: {'; '.join(reasons[:3])}"
            )

    def _replicate(self, room: Room) -> None:
        if self.drain.asked():
            return
        source, total, done = self.agenda.replicates()
        self._plan(self.agenda.num_trials + total)
        if done < total:
            self.progress.phase("finalists on fresh seeds", total, done)
            self._run_source(source, room)

    def _plan(self, runs: int) -> None:
        self.state.planned_runs = runs
        self.folder.save_state(self.state)

    def _run_source(self, source: Any, room: Room) -> None:
        from orchestrator.run.execution import run_source

        run_source(
            source,
            self.agenda.shared,
            self.book,
            self.spec.resources,
            room,
            self.folder.address_of(self._ray_folder()),
            self.drain.asked,
        )
        if self.drain.asked():
            self.book.on_drain()
        for problem in self.book.problems:
            self.progress.warn(problem)
        if self.book.problems and not self.drain.asked():
            raise RuntimeError(f"the record of {self.spec.name} has gaps: {self.book.problems[0]}")

    def _ray_folder(self) -> Path:
        """A folder that no Tuner used: an old one's name would mix its trials into the new."""
        if self.folder.store is not None:
            used = self.folder.store.folders(f"{self.folder.name}/ray")
        else:
            used = [path.name for path in self.folder.ray_path.glob("*")]
        number = 1 + max((int(name) for name in used if name.isdigit()), default=-1)
        return self.folder.ray_path / f"{number:03d}"

    def _baselines(self, room: Room) -> None:
        from orchestrator.run.execution import run_baselines

        if self.drain.asked():
            return
        jobs, total = self.agenda.baselines()
        if not jobs:
            return
        self.progress.phase("baselines", total, total - len(jobs))
        shared, resources = self.agenda.shared, self.spec.resources
        for job, figures, error in run_baselines(jobs, shared, resources, room, self.drain.asked):
            record, started_ms = self.agenda.baseline_record(job, figures, error, now_ms())
            self.book.add(record, started_ms, [])

    def _finish(self) -> int:
        """Judge, write results.json, end the parent run."""
        results = {
            objective: Judge(self.folder, self.spec, objective).result() for objective in self.spec.objectives
        }
        self.folder.save_results({"schema_version": 1, "objectives": results})
        missing = [objective for objective, result in results.items() if result["winner"] is None]
        self.state.state = "finished"
        self.state.exit_code = NoFeasibleTrial.exit_code if missing else 0
        if missing:
            self.state.problem = (
                f"no feasible trial for {', '.join(missing)}; loosen the constraints or search more"
            )
            self.progress.warn(self.state.problem)
        self._end("FINISHED", results)
        self._close()
        self.folder.drop("ray")
        self.folder.discard(self.folder.staged_data)
        return self.state.exit_code

    def _stop(self, problem: str | None = None, error: BaseException | None = None) -> int:
        """End the launch before the sweep is finished: what runs is INTERRUPTED and goes on another time."""
        with self._ending:
            self.book.on_drain()
            self.state.state, self.state.problem = "stopped", problem
            request = self.drain.request()
            if request is not None and request["cancel"]:
                cancel(self.folder, self.state, self.book)
            if isinstance(error, TooManyFailures):
                self.state.state, self.state.exit_code = "failed", error.exit_code
            self._end("FAILED" if self.state.state == "failed" else "KILLED", {})
            self._close()
        return self.drain.exit_code

    def _end(self, status: str, results: dict[str, Any]) -> None:
        if not self.state.cancelled:
            self.state.ended = utc_now() if self.state.exit_code is not None else None
        files = [self.folder.results_path, self.folder.file_path] if results else []
        figures, tags = parent_figures(results)
        self.tracker.finish_sweep(status, now_ms(), figures, tags | {"selmix.state": self.state.state}, files)

    def _close(self) -> None:
        self.state.unsent = self.tracker.close()
        if self.state.unsent:
            self.progress.warn(
                f"{self.state.unsent} writes did not reach MLflow; launch again when it is back to send them"
            )
        self.folder.save_state(self.state)
