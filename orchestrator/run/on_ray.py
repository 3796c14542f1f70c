"""Execution of runs on Ray: trials and replicates by Tune; heads of the base model, screens and baselines as tasks."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import ray
from ray import tune
from ray.tune.execution import class_cache

from orchestrator.cluster.address import Cluster
from orchestrator.cluster.capacity import exclusive_resources
from orchestrator.cluster.concurrency import ConcurrencyLimit
from orchestrator.cluster.nodes import alive_nodes
from orchestrator.errors import PreflightError
from orchestrator.records.folder import RunFolder
from orchestrator.run.drain import Drained
from orchestrator.run.execution import MAX_LOSSES, Dispatcher, WorkerResources
from orchestrator.run.outcome import RunOutcome
from orchestrator.run.tune import DrainStopper, RunCallback, RunScheduler, RunSearcher
from orchestrator.spec.schema import SweepSpec
from orchestrator.spec.sections import ResourceSection
from trainables.baseline import BaselineJob, BaselineReport, fit_baseline, write_baseline
from trainables.failures import NoGpu
from trainables.finetune import FinetuneTrainable
from trainables.ranks import RankPlan
from trainables.shared import Shared, Work

J = TypeVar("J")
T = TypeVar("T")


class RayExecutor:
    """Executor of runs on the Ray that this driver is connected to; see :class:`orchestrator.run.execution.Executor`.

    Args:
        spec: specification of the sweep.
        folder: records of the sweep.
        shared: data, models and rules that all runs share; the driver adds the start models.
        cluster: that this driver is connected to.
        draining: returns True once the sweep is to stop.
        report: called with a line where the sweep waits for a node.
    Raises:
        PreflightError: not even one run fits on the cluster.
    """

    def __init__(
        self,
        spec: SweepSpec,
        folder: RunFolder,
        shared: Shared,
        cluster: Cluster,
        draining: Callable[[], bool],
        report: Callable[[str], None],
    ) -> None:
        self._resources, self._folder, self.shared, self._draining = spec.resources, folder, shared, draining
        self._method = spec.early_stopping.method if spec.early_stopping is not None else ""
        self._one_worker = spec.resources.model_copy(update={"workers": 1})
        self._limit = ConcurrencyLimit(spec.resources, spec.search.max_concurrent_trials, cluster, report)
        # A baseline is no trial of the search and takes one worker. The limit is made before the search, as it raises
        # where nothing fits: a node that is lost meanwhile must not end the launch.
        self._baseline_limit = ConcurrencyLimit(self._one_worker, None, cluster, report)
        self._put: tuple[Shared, Any] | None = None

    def tasks(self, work: Work[J, T], jobs: Sequence[J], what: str) -> list[T]:
        """Do pieces of work, each as a task that takes one worker's resources, whatever a trial takes.

        As a baseline a piece is done again elsewhere where its worker or node is lost, and once more, exclusively,
        where it runs out of memory.
        """
        task, stored = ray.remote(work), self._stored()
        # Of each piece its place, what it takes, and whether it was done before.
        pending = deque((place, self._one_worker_takes, False) for place in range(len(jobs)))
        running: dict[Any, tuple[int, WorkerResources, bool]] = {}
        done: dict[int, T] = {}
        try:
            while pending or running:
                while pending and len(running) < self._baseline_limit():
                    place, takes, again = pending.popleft()
                    reference: Any = task.options(**_options(takes)).remote(stored, jobs[place], takes["gpu"])
                    running[reference] = (place, takes, again)
                # With a timeout, so that a drain is seen while tasks run.
                for reference in ray.wait(list(running), timeout=0.5)[0]:
                    place, takes, again = running.pop(reference)
                    try:
                        done[place] = ray.get(reference)
                    except ray.exceptions.RayError as error:
                        pending.append((place, self._once_more(error, again, what), True))
                if running and self._draining():
                    raise Drained
        finally:
            # Where one ends the launch, what still runs would hold its worker.
            for reference in running:
                ray.cancel(reference, force=True)
        return [done[place] for place in range(len(jobs))]

    @property
    def _one_worker_takes(self) -> WorkerResources:
        return {"cpu": self._resources.cpu, "gpu": self._resources.gpu}

    def _stored(self) -> Any:
        """Reference of what all runs share in Ray's object store, where it is put once."""
        if self._put is None or self._put[0] is not self.shared:
            self._put = (self.shared, ray.put(self.shared))
        return self._put[1]

    def _once_more(self, error: ray.exceptions.RayError, again: bool, what: str) -> WorkerResources:
        """Resources with which a piece of work that ended with an error is done once more.

        Args:
            error: of the piece.
            again: True if it was done once more before.
            what: name of the work.
        Raises:
            Drained: it was killed with the sweep.
            PreflightError: it cannot be done here.
            Exception: what the work itself raised, which ends the launch, as it does in this process.
        """
        # A task that dies in a drain was killed with it.
        if self._draining():
            raise Drained from error
        outcome, cause = RunOutcome.of_error(error), getattr(error, "cause", None)
        if outcome.kind == "failed" and cause is not None and not isinstance(cause, NoGpu):
            raise cause from error
        wider = _exclusive(self._one_worker) if outcome.kind == "out_of_memory" and not again else None
        if wider is None:
            raise PreflightError(
                f"{what}: one worker must be able to do it, with resources.cpu {self._resources.cpu:g} and "
                f"resources.gpu {self._resources.gpu:g}, got: {outcome.reason}; change the resources or the nodes, "
                "then launch again"
            )
        return wider

    def exclusive(self) -> WorkerResources | None:
        """Resources of a worker of an exclusive trial, on the cluster as it is; None where it can get no more."""
        return _exclusive(self._resources)

    def run(self, dispatcher: Dispatcher) -> None:
        """Run everything that a dispatcher hands out; actors are reused from run to run."""
        # The recorder reports which runs failed or were interrupted, and why.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        logging.getLogger("ray.train").setLevel(logging.ERROR)
        searcher = RunSearcher(dispatcher, self._limit)
        scheduler = RunScheduler(dispatcher) if dispatcher.stops_early else None
        # A new Tuner in a new folder for each phase of each launch: Tuner.restore loses trials that were under way, and
        # an old folder without it mixes old trials and new ones.
        storage, _, name = self._folder.address_of(self._folder.unused_ray_path()).rpartition("/")
        tuner = tune.Tuner(
            _trainable(self.shared, self._resources),
            # The searcher ends the search, so there is no number of samples. A new actor per run would cost a second
            # and more.
            tune_config=tune.TuneConfig(
                search_alg=searcher, scheduler=scheduler, num_samples=-1, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name=name, storage_path=storage, storage_filesystem=self.shared.filesystem,
                callbacks=[RunCallback(dispatcher, searcher, self._method)], stop=DrainStopper(self._draining),
                verbose=0,
                # The dispatcher decides what resumes: Tune would also retry a run that failed by its own fault.
                failure_config=tune.FailureConfig(max_failures=0),
                # A run requests its checkpoints itself, its last one too; Tune's default for classes would add one.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )  # fmt: skip
        with without_credentials():
            tuner.fit()

    def fit(self, jobs: Sequence[BaselineJob]) -> Iterator[tuple[BaselineJob, BaselineReport | RunOutcome]]:
        """Fit baselines side by side, as many tasks at once as the concurrency limit allows.

        A baseline that runs on every replicate seed is fitted seed by seed, one task each. Each task takes one worker's
        resources, whatever a trial takes. As with trials, a task that loses its worker or node is run again elsewhere,
        and a baseline that runs out of memory is fitted once more, exclusively.
        """
        fit, write = ray.remote(fit_baseline), ray.remote(write_baseline)
        # Once for all tasks: an argument passed by value would be stored anew for each of them.
        stored = self._stored()
        # A part to fit, or None where all parts are fitted and the baseline is to be written.
        pending = deque[tuple[_Baseline, BaselineJob | None]](
            part for job in jobs for part in _Baseline(job).parts()
        )
        running: dict[Any, tuple[_Baseline, BaselineJob | None]] = {}
        try:
            while (pending or running) and not self._draining():
                while pending and len(running) < self._baseline_limit():
                    baseline, part = pending.popleft()
                    takes = baseline.takes or self._one_worker_takes
                    options = _options(takes)
                    reference: Any
                    if part is None:
                        reference = write.options(**options).remote(stored, baseline.job, *baseline.fits)
                    else:
                        reference = fit.options(**options).remote(stored, part, takes["gpu"])
                        baseline.fits.append(reference)
                    running[reference] = (baseline, part)
                # With a timeout, so that a drain is seen while tasks run.
                done, _ = ray.wait(list(running), timeout=0.5)
                for reference in done:
                    baseline, part = running.pop(reference)
                    # A fit is not read here: its models stay in the object store, its error ends the task that writes.
                    if part is not None:
                        baseline.unfitted -= 1
                        if not baseline.unfitted:
                            pending.appendleft((baseline, None))
                        continue
                    try:
                        yield baseline.job, ray.get(reference)
                    except ray.exceptions.RayError as error:
                        # A task that dies in a drain was killed with it: its baseline is fitted at the next launch.
                        if self._draining():
                            return
                        outcome = RunOutcome.of_error(error)
                        if outcome.kind == "out_of_memory" and not baseline.takes:
                            baseline.takes = _exclusive(self._one_worker)
                            if baseline.takes is not None:
                                pending.extendleft(baseline.parts())
                                continue
                        yield baseline.job, outcome
                    # Without references the object store may drop the models.
                    baseline.fits.clear()
        finally:
            # Also where a drain ends the loop from within: what still runs would hold its worker.
            for reference in running:
                ray.cancel(reference, force=True)


@dataclass(eq=False)
class _Baseline:
    """Baseline under way.

    Attributes:
        job: the baseline.
        unfitted: number of parts that are still to be fitted.
        fits: references of the fitted parts in Ray's object store.
        takes: resources of its tasks; None for those of all baselines.
    """

    job: BaselineJob
    unfitted: int = 0
    fits: list[Any] = field(default_factory=list)
    takes: WorkerResources | None = None

    def parts(self) -> list[tuple[_Baseline, BaselineJob | None]]:
        """Begin anew, and return all parts to fit."""
        parts = self.job.parts()
        self.unfitted = len(parts)
        self.fits.clear()
        return [(self, part) for part in parts]


def _options(takes: WorkerResources) -> dict[str, Any]:
    """Options of a task with these resources."""
    # Ray retries a task only where its worker or node is lost, not where it raises.
    return {"num_cpus": takes["cpu"], "num_gpus": takes["gpu"], "max_retries": MAX_LOSSES - 1}


def _exclusive(resources: ResourceSection) -> WorkerResources | None:
    wider = exclusive_resources(resources, [node.machine for node in alive_nodes()])
    return None if wider is None else {"cpu": wider.cpu, "gpu": wider.gpu}


def _trainable(shared: Shared, resources: ResourceSection) -> Any:
    """Trainable with its data and its resources: one bundle per worker."""
    workers = resources.workers

    def request(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        takes = config.get("takes") or {"cpu": resources.cpu, "gpu": resources.gpu}
        bundle = {"CPU": float(takes["cpu"])} | ({"GPU": float(takes["gpu"])} if takes["gpu"] else {})
        # Tune puts the trainable into the first bundle. With several workers it trains nothing and takes nothing, and
        # starts its ranks in the others.
        return tune.PlacementGroupFactory([bundle] if workers == 1 else [{}] + [bundle] * workers)

    if workers == 1:
        return tune.with_resources(tune.with_parameters(FinetuneTrainable, shared=shared), request)
    ranks = RankPlan(ray.put(shared), workers, resources.cpu, resources.gpu)
    return tune.with_resources(tune.with_parameters(FinetuneTrainable, ranks=ranks), request)


@contextlib.contextmanager
def without_credentials() -> Iterator[None]:
    """Keep the driver's AWS keys out of the runtime environment of trials, which Ray logs and shows on its dashboard.

    Nodes have credentials of their own, and a private cluster inherits its driver's environment.
    """
    # Tune copies these variables into every actor's runtime environment, and has no setting to leave them out.
    before = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in before if not name.startswith("AWS_")}
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE = before
