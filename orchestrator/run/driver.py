"""Driver of one launch, from its lease to its verdict: prepare, search, replicate, baselines, result.

Our records and Optuna's journal are the truth. A sweep that was killed resumes with a new Tuner in a new folder: its
searcher hands out the unfinished runs, then takes from the studies the trials that are missing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from orchestrator.build.selection import ranking_metric
from orchestrator.clock import now_ms, utc_now
from orchestrator.cluster.address import Cluster
from orchestrator.cluster.local_pool import LocalPool
from orchestrator.cluster.ray_session import RayStart
from orchestrator.errors import NoFeasibleTrial, SelmixError, TooManyFailures
from orchestrator.http_client import SERVERS
from orchestrator.progress import Progress
from orchestrator.provenance import environment
from orchestrator.records.folder import RunFolder
from orchestrator.records.leases.lease import Lease
from orchestrator.records.logs import append_log
from orchestrator.records.store import runs_flag
from orchestrator.records.types import SweepState, TrialRecord
from orchestrator.results.infeasible import why_nothing_wins
from orchestrator.results.judge import Judge, climbed, judged
from orchestrator.results.pages import Pages, links_of
from orchestrator.results.rows import SweepResult, load_results, rests_on, said
from orchestrator.results.rungs import step_line
from orchestrator.results.winner_text import further_step, result_text
from orchestrator.run import without_ray
from orchestrator.run.drain import Drain, Drained, kept_text
from orchestrator.run.execution import Dispatcher, Executor
from orchestrator.run.pending import PendingRuns
from orchestrator.run.prepare import (
    BaseToCome,
    prepare_base,
    prepare_best_head,
    prepare_heads,
    shared_by_runs,
)
from orchestrator.run.recorder import Recorder
from orchestrator.search.early_stopping import EarlyStopping
from orchestrator.search.screen import screen_objective, screened_line
from orchestrator.search.screening import most_configs
from orchestrator.search.sources import Source
from orchestrator.search.space import most_steps
from orchestrator.spec.schema import SweepSpec
from orchestrator.table import unit_of
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.values import Best, parent_tags, sweep_params, trial_tags
from selmix.data.splits import SweepData
from selmix.metrics import MetricContext
from selmix.rungs import Rung, up_to
from trainables.heads import FittedHeads, HeadJob, fit_heads
from trainables.staged import StagedData

SHOWN_S = 5.0
"""Seconds that a launch waits until MLflow has taken the view of its runs."""

CANCELLED = "cancelled for good by selmix stop --cancel"


@dataclass(frozen=True)
class Launch:
    """Resources of a launch when its driver begins.

    Attributes:
        spec: specification of the sweep.
        folder: records of the sweep.
        data: of the sweep.
        tracking: address of MLflow, with its credentials.
        progress: shown to the user.
        lease: of the sweep, held by this process.
        cluster: to run on; None to run without Ray.
        ray: its start, under way.
        pool: processes of this machine for work without Ray; None to do everything in this process.
        mapped: the data for the processes of the pool.
        base: the base model, where its training has begun in the pool.
        command: that resumes the sweep, as the user would type it.
        further: command that climbs the rungs which this launch leaves out.
        may_exit: True if the driver may end the process where a drain hangs.
    """

    spec: SweepSpec
    folder: RunFolder
    data: SweepData
    tracking: str
    progress: Progress
    lease: Lease
    cluster: Cluster | None
    ray: RayStart = field(default_factory=RayStart.none)
    pool: LocalPool | None = None
    mapped: StagedData | None = None
    base: BaseToCome | None = None
    command: str = "selmix launch FILE"
    further: str = "selmix launch FILE"
    may_exit: bool = True


class Driver:
    """Driver of one sweep under its lease.

    Args:
        launch: resources of the launch.
        state: of the sweep; saved whenever it changes.
    """

    def __init__(self, launch: Launch, state: SweepState) -> None:
        self.launch, self.state = launch, state
        self.spec, self.folder, self.progress = launch.spec, launch.folder, launch.progress
        self.drain = Drain(self.progress, launch.lease, self._leave, launch.ray.over)
        self._ending = threading.Lock()
        metrics = {name: ranking_metric(self.spec, name) for name in self.spec.objectives}
        artifacts = self.folder.store.root / "mlartifacts" / self.spec.name
        self.tracker = Tracker(launch.tracking, self.spec.name, state.sweep_id, artifacts, self.progress.warn)
        self.recorder = Recorder(
            self.folder, self.tracker, self.progress, trial_tags(launch.data.digests), sweep_params(self.spec),
            metrics,
        )  # fmt: skip
        self.pages = Pages(self.tracker, state.sweep_id, metrics)

    def run(self) -> int:
        """Drive the sweep to its end, and return the exit code, which the state keeps for later launches."""
        self.drain.listen()
        try:
            code = self._run()
        except Drained:
            code = self._stop()
        except BaseException as error:
            # After a signal to the whole process group Ray ends under the driver, and raises: the record is whole.
            if self.drain.is_requested():
                return self._stop(None, error)
            # A SelmixError explains itself; of any other error the log needs the traceback.
            ours = isinstance(error, SelmixError)
            text = str(error) if ours else "".join(traceback.format_exception(error))
            append_log(self.folder, self.folder.log_path, text)
            self._stop(str(error) or repr(error), error)
            raise
        finally:
            self.progress.close()
            self.drain.restore()
            # Logs are whole in the store before the lease is given back.
            self.folder.store.flush()
        return code

    def _leave(self) -> None:
        """Stop from the timer's thread, while the main thread hangs in Ray."""
        if not self.launch.may_exit:
            # As a second Ctrl-C: the main thread stops as soon as it runs Python again.
            os.kill(os.getpid(), signal.SIGINT)
            return
        # A main thread that is already ending the launch must not be cut off in the midst of it.
        if not self._ending.locked():
            self._stop()
            self.folder.store.flush()
            self.launch.lease.release()
            # Not sys.exit, which would end this thread only.
            os._exit(self.drain.exit_code)

    def _run(self) -> int:
        self._open()
        # A failed sweep is launched again only to send what MLflow did not get.
        if self.state.exit_code == TooManyFailures.exit_code:
            self.state.state = "failed"
            self._end("FAILED")
            self._close()
            return self.state.exit_code
        # With an exit code all runs are done, and only the result is made and sent again.
        if self.state.exit_code is None:
            self._prepare()
            with self._executor() as executor:
                self._heads(executor)
                for rungs in self._stages():
                    self._climb(executor, rungs)
            if self.drain.is_requested():
                raise Drained
        return self._finish()

    def _open(self) -> None:
        """Open the sweep's run in MLflow, and send what a killed driver had not sent."""
        tags = parent_tags(self.spec, self.launch.data.digests)
        self.state.parent_run_id = self.tracker.open_sweep(self.spec.name, tags, sweep_params(self.spec))
        self.state.experiment_id = self.tracker.experiment_id
        # Those of a judged sweep stay as they are until it is judged again.
        if self.state.exit_code is None:
            self._show_running()
        self.folder.save_state(self.state)
        # Before a run is opened: those that are RUNNING there were left by a killed driver.
        self.tracker.reap(now_ms())
        for record in [*self.folder.load_trials(), *self.folder.load_baselines()]:
            if record.is_done:
                self.recorder.replay(record)

    def _show_running(self) -> None:
        self.pages.show_running()
        # MLflow has just answered; the link must not be printed before there is what it names.
        self.tracker.settle(SHOWN_S)
        self.state.views = dict(self.tracker.views)
        links, flag = self._links(), runs_flag(self.folder.store.shown)
        served = "" if self.launch.tracking.startswith(SERVERS) else f" (selmix ui{flag} serves them)"
        for name, link in links.items():
            of_objective = f" of {name}" if len(links) > 1 else ""
            self.progress.say(f"{self.spec.name}: runs{of_objective} in MLflow{served}: {link}")

    def _prepare(self) -> None:
        if not self.folder.store.current(self.folder.base_weights).is_file():
            source = self.spec.pretrain.checkpoint or f"{self.spec.model.name}, {self.spec.recipe}"
            self.progress.say(f"base model: {source}")
        self.prepared = prepare_base(
            self.spec, self.launch.data, self.folder, self.launch.base, self.progress.warn
        )
        known = self.state.base
        # A base model that is only read again costs nothing: the facts keep the seconds that training it took.
        if known is None or known.digest != self.prepared.base.digest:
            self.state.base = self.prepared.base
        self.state.data = self.prepared.facts
        self.state.environment = environment(self.spec.resources.cpu)
        self.folder.save_state(self.state)

    def _heads(self, executor: Executor) -> None:
        """Fit the heads that runs start from, where they run, and complete what all runs share."""

        def fit(job: HeadJob) -> FittedHeads:
            self.progress.say(f"balanced heads: {', '.join(job.objectives)}")
            return executor.tasks(fit_heads, [job], "balanced heads of the base model")[0]

        self.drain.at_once = self._is_alone
        prepared = prepare_heads(self.spec, self.prepared, self.folder, fit)
        self.drain.at_once = False
        # Heads that are only read again cost nothing either.
        if self.state.base is not None and prepared.base.heads_cost_s is not None:
            self.state.base = replace(self.state.base, heads_cost_s=prepared.base.heads_cost_s)
            self.folder.save_state(self.state)
        self.pending = PendingRuns(self.spec, self.folder, prepared)
        executor.shared = replace(executor.shared, bases=prepared.bases)

    @contextlib.contextmanager
    def _executor(self) -> Iterator[Executor]:
        """Build the executor of the runs, for as long as the block lasts.

        Ray and Tune are imported here: a sweep in this process needs neither.
        """
        cluster, draining = self.launch.cluster, self.drain.is_requested
        pool = self.launch.pool
        shared = shared_by_runs(self.spec, self.prepared, self.folder, cluster, self.launch.mapped)
        self.launch.ray.wait()
        # Workers are alive from here on; runs stop at the end of a round.
        self.drain.at_once = False
        try:
            if cluster is not None:
                from orchestrator.run.on_ray import RayExecutor

                yield RayExecutor(self.spec, self.folder, shared, cluster, draining, self.progress.warn)
            elif pool is not None:
                yield without_ray.PoolExecutor(self.folder, shared, draining, pool, self.progress.warn)
            else:
                yield without_ray.InProcessExecutor(self.folder, shared, draining)
        finally:
            self.drain.at_once = True

    @property
    def _is_alone(self) -> bool:
        """True if everything is done in this process, where nothing looks for a drain meanwhile."""
        return self.launch.cluster is None and self.launch.pool is None

    @property
    def _rungs(self) -> list[Rung]:
        """Rungs that this launch climbs, from the cheapest on."""
        return up_to(self.spec.rungs, self.state.until)

    def _stages(self) -> list[list[Rung]]:
        """Rungs that are climbed together, one stage after the other.

        Nothing waits for the rung ``retrain``, a reference: its rows are made beside those of the rung below.
        """
        stages = [[rung] for rung in self._rungs]
        return [*stages[:-2], stages[-2] + stages[-1]] if stages[-1] == ["retrain"] and stages[1:] else stages

    def _climb(self, executor: Executor, rungs: list[Rung]) -> None:
        """Run everything of some rungs that is pending, and say what they added."""
        if "head" in rungs and self.spec.screen is not None:
            self._screen(executor)
        if "finetune" in rungs:
            self._hand_up(executor)
            self._search(executor)
        self._baselines(executor, rungs)
        if self.drain.is_requested():
            return
        reached = self._rungs[: self._rungs.index(rungs[-1]) + 1]
        for objective, (metric, steps) in climbed(self.folder, self.spec, reached).items():
            for step in steps:
                if step.rung in rungs:
                    self.progress.say(step_line(objective, metric, step))

    def _screen(self, executor: Executor) -> None:
        """Screen the objectives that have no screen yet: one that was cut off is run anew."""
        data = self.prepared.data
        for objective, rule in self.prepared.rules.items():
            if (
                self.drain.is_requested()
                or self.spec.screen is None
                or self.pending.screen(objective) is not None
            ):
                continue
            self.progress.say(f"{objective}: screening {most_configs(self.spec)} configurations of the head")
            context = MetricContext(data.train_counts.cpu(), rule.definitions, data.num_groups)
            self.drain.at_once = self._is_alone
            record = screen_objective(self.spec, self.folder, objective, rule, context, executor)
            self.drain.at_once = False
            self.progress.say(f"{objective}: {screened_line(record, unit_of(rule.metric))}")

    def _hand_up(self, executor: Executor) -> None:
        """Give the trials the best head of the rung below, where they start from it."""
        if self.drain.is_requested() or not self.spec.starts_from_best_head:
            return
        prepared = prepare_best_head(self.spec, self.folder, self.pending.prepared)
        self.pending.prepared = prepared
        executor.shared = replace(executor.shared, bases=prepared.bases)
        for objective in prepared.bases:
            found = self.folder.load_best_head(objective)
            if found is not None:
                self.progress.say(f"{objective}: trials may start from the head of {found.approach}")

    def _search(self, executor: Executor) -> None:
        """Run the trials, then the finalists on fresh seeds: on the same workers, which are started once."""
        max_failed = self.pending.max_failed
        source, total, done = self.pending.search(lambda: self.recorder.failed_trials <= max_failed)
        self._plan(total)
        if done < total:
            self.progress.phase("search", total, done)
            self._dispatch(executor, source, self._early_stopping(), self._finalists)
        else:
            replicates = self._finalists()
            if replicates is not None:
                self._dispatch(executor, replicates)
        # After the phase and not in the midst of it: trials that were under way have ended, and are on record.
        failed = self._failed_beyond_budget()
        if failed and not self.drain.is_requested():
            reasons = sorted({str(t.error) for t in failed})
            raise TooManyFailures(
                f"{self.spec.name}: {len(failed)} of {total} trials failed, search.max_failed allows "
                f"{100 * self.spec.search.max_failed:g} %: {'; '.join(reasons[:3])}"
            )

    def _failed_beyond_budget(self) -> list[TrialRecord]:
        """Failed trials, where they are more than the sweep allows; else none."""
        failed = [t for t in self.folder.load_trials() if t.kind == "trial" and t.state == "FAILED"]
        return failed if len(failed) > self.pending.max_failed else []

    def _finalists(self) -> Source | None:
        """Source of the finalists' runs on fresh seeds; None where there are none, or the sweep ends before them."""
        if self.drain.is_requested() or self._failed_beyond_budget():
            return None
        source, total, done = self.pending.replicates()
        self._plan(self.pending.num_trials + total)
        if done == total:
            return None
        self.progress.phase("finalists on fresh seeds", total, done)
        return source

    def _early_stopping(self) -> EarlyStopping | None:
        section = self.spec.early_stopping
        if section is None:
            return None
        # Imported here: it needs Ray, which a sweep in this process does without.
        from orchestrator.run.tune import peers

        return self.pending.early_stopping(partial(peers, section, most_steps(self.spec)))

    def _plan(self, runs: int) -> None:
        self.state.planned_runs = runs
        self.folder.save_state(self.state)

    def _dispatch(
        self, executor: Executor, source: Source, stopping: EarlyStopping | None = None,
        then: Callable[[], Source | None] = lambda: None,
    ) -> None:  # fmt: skip
        executor.run(
            Dispatcher(source, self.recorder, self.drain.is_requested, executor.exclusive, stopping, then)
        )
        if self.drain.is_requested():
            self.recorder.on_drain()
        for problem in self.recorder.problems:
            self.progress.warn(problem)
        # A result from a record with gaps could name a wrong winner.
        if self.recorder.problems and not self.drain.is_requested():
            raise RuntimeError(
                f"{self.folder.shown}: every run must be on record, got: {self.recorder.problems[0]}; see its "
                "driver.log, and launch again to resume"
            )

    def _baselines(self, executor: Executor, rungs: list[Rung]) -> None:
        if self.drain.is_requested():
            return
        jobs, total = self.pending.baselines(rungs)
        if jobs:
            self.progress.phase(f"baselines of {' and '.join(rungs)}", total, total - len(jobs))
            for job, end in executor.fit(jobs):
                self.recorder.add(self.pending.baseline_record(job, end))

    def _finish(self) -> int:
        """Judge the sweep, write results.json, and end the sweep's run in MLflow."""
        # A result that is sent again, perhaps one by an earlier rule, is not judged again.
        results = None if self.state.exit_code is None else load_results(self.folder)
        if results is None:
            results = judged(self.folder, self.spec, self._rungs)
            self.folder.save(self.folder.results_path, results)
        missing = results.undecided
        self.state.state = "finished"
        self.state.exit_code = NoFeasibleTrial.exit_code if missing else 0
        if missing:
            self.state.problem = "; ".join(
                why_nothing_wins(Judge(self.folder, self.spec, name)) for name in missing
            )
            self.progress.warn(self.state.problem)
        for name, result in results.objectives.items():
            if result.winner is not None and not result.tied and "finetune" in self._rungs:
                self.progress.warn(
                    f"{name}: no trial can win; {result.winner.approach} is the best of the other rows"
                )
        metrics, tags = _winners(results)
        self.pages.show_result(self.folder, self.state, results)
        self._end("FINISHED", metrics, tags)
        self._close()
        self.progress.end(partial(self._verdict_text, results))
        # No run of a finished sweep resumes: its checkpoints and its staged data may go.
        self.folder.drop("ray")
        self.folder.drop("features")
        self.folder.store.discard(self.folder.staged_data)
        return self.state.exit_code

    def _stop(self, problem: str | None = None, error: BaseException | None = None) -> int:
        """End the launch before the sweep is finished: runs that are alive are INTERRUPTED, and resume later.

        Args:
            problem: shown by later commands; None after a signal.
            error: that ended the launch; None where no error did.
        Returns:
            The exit code.
        """
        with self._ending:
            self.recorder.on_drain()
            self.state.state, self.state.problem = "stopped", problem
            request = self.drain.request()
            if request is not None and request.cancel:
                cancel(self.folder, self.state, self.recorder)
            if isinstance(error, TooManyFailures):
                self.state.state, self.state.exit_code = "failed", error.exit_code
            self._end("FAILED" if self.state.state == "failed" else "KILLED")
            self._close()
            self.progress.end(partial(kept_text, self.folder, self.state, self.launch.command))
        return self.drain.exit_code

    def _verdict_text(self, results: SweepResult, width: int | None) -> str:
        served = self.launch.tracking.startswith(SERVERS)
        left = [rung for rung in self.spec.rungs if rung not in self._rungs]
        return result_text(
            self.spec.name, results, runs_flag(self.folder.store.shown), self._links(), served, width,
            further_step(self.launch.further, left),
        )  # fmt: skip

    def _links(self) -> dict[str, str]:
        return links_of(self.state, self.launch.tracking, self.spec.objectives)

    def _end(
        self, status: str, metrics: Mapping[str, float] | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        if not self.state.cancelled:
            self.state.ended = utc_now() if self.state.exit_code is not None else None
        # Only a sweep that was judged has metrics, and a result to go with them.
        files = [self.folder.results_path, self.folder.file_path] if metrics is not None else []
        if metrics is not None and self.spec.screen is not None:
            tables = [self.folder.screen_table_path(name) for name in self.spec.objectives]
            files += [self.folder.store.current(table) for table in tables if table.is_file()]
        all_tags = {**(tags or {}), "selmix.state": self.state.state}
        self.tracker.finish_sweep(status, now_ms(), metrics or {}, all_tags, files)

    def _close(self) -> None:
        self.state.unsent = self.tracker.close()
        self.state.views = {**self.state.views, **self.tracker.views}
        if self.state.unsent:
            self.progress.warn(
                f"{self.state.unsent} writes did not reach MLflow; launch again when it is back to send them"
            )
        self.folder.save_state(self.state)


def cancel(folder: RunFolder, state: SweepState, recorder: Recorder) -> None:
    """Give up a sweep for good: end every unfinished run as KILLED on record, in its study and in MLflow.

    The caller ends the sweep's MLflow run and saves the state.

    Args:
        folder: records of the sweep.
        state: of the sweep; it is changed.
        recorder: of the runs.
    """
    from orchestrator.search.study import fail_unfinished

    state.state, state.problem = "stopped", CANCELLED
    state.cancelled, state.ended = True, utc_now()
    killed = recorder.kill_unfinished()
    folder.drop("features")
    folder.store.discard(folder.staged_data)
    # A sweep that is cancelled before its search has no journal.
    if folder.journal_path.is_file():
        fail_unfinished(folder.journal_path, killed)


def _winners(results: SweepResult) -> tuple[dict[str, float], dict[str, str]]:
    """Metrics and tags of the winners; the objective stands before a metric where there are several."""
    metrics: dict[str, float] = {}
    trial_ids, verdicts = [], []
    for objective, result in results.objectives.items():
        if result.winner is None:
            continue
        prefix = f"{objective}/" if len(results.objectives) > 1 else ""
        trial_ids.append(result.winner.trial_id)
        metrics |= Best(result.winner.select, result.metric, result.winner.replicates.score).metrics(prefix)
        if result.verdict is not None:
            verdicts.append(f"{said(result.verdict.outcome)} {rests_on(result.verdict)[0]}")
    tags = {"selmix.winner": ", ".join(trial_ids), "selmix.verdict": ", ".join(verdicts)}
    return metrics, {key: text for key, text in tags.items() if text}
