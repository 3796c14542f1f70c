"""Runs on Ray: trials and replicates by Tune, baselines as tasks."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import tune
from ray.tune.execution import class_cache

from orchestrator.cluster.address import Cluster
from orchestrator.cluster.capacity import exclusive_resources
from orchestrator.cluster.concurrency import ConcurrencyLimit
from orchestrator.cluster.nodes import alive_nodes
from orchestrator.records.folder import RunFolder
from orchestrator.run.execution import MAX_LOSSES, Dispatcher, Takes
from orchestrator.run.outcome import RunOutcome
from orchestrator.run.tune import DrainStopper, RunCallback, RunSearcher
from orchestrator.spec.schema import SweepSpec
from orchestrator.spec.sections import ResourceSection
from trainables.baseline import BaselineJob, BaselineReport, fit_baseline, write_baseline
from trainables.finetune import FinetuneTrainable
from trainables.ranks import RankPlan
from trainables.shared import Shared


class RayExecutor:
    """Executes runs on the Ray that this driver is connected to; see :class:`orchestrator.run.execution.Executor`.

    Args:
        spec: of the sweep.
        folder: of the sweep.
        shared: what all runs share.
        cluster: that this driver is connected to.
        draining: True once the sweep is to stop.
        report: is called with a line where the sweep waits for a node.
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
        self._resources, self._folder, self._shared, self._draining = spec.resources, folder, shared, draining
        self._one_worker = spec.resources.model_copy(update={"workers": 1})
        self._limit = ConcurrencyLimit(spec.resources, spec.search.max_concurrent_trials, cluster, report)
        # A baseline is no trial of the search and takes one worker. Looked at before the search: a node that is lost
        # meanwhile must not end the launch.
        self._baseline_limit = ConcurrencyLimit(self._one_worker, None, cluster, report)

    def exclusive(self) -> Takes | None:
        """What a worker of a trial takes to have no neighbours, on the cluster as it is now."""
        return _exclusive(self._resources)

    def run(self, dispatcher: Dispatcher) -> None:
        """Run everything that a dispatcher hands out; actors are used again from run to run."""
        # The recorder says which runs did not end well, and why.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        logging.getLogger("ray.train").setLevel(logging.ERROR)
        searcher = RunSearcher(dispatcher, self._limit)
        storage, _, name = self._folder.address_of(self._folder.unused_ray_path()).rpartition("/")
        tuner = tune.Tuner(
            _trainable(self._shared, self._resources),
            tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1, reuse_actors=True),
            run_config=tune.RunConfig(
                name=name, storage_path=storage, storage_filesystem=self._shared.filesystem,
                callbacks=[RunCallback(dispatcher, searcher)], stop=DrainStopper(self._draining), verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
                # A run asks for its checkpoints itself, its last one too.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )  # fmt: skip
        with without_credentials():
            tuner.fit()

    def fit(self, jobs: Sequence[BaselineJob]) -> Iterator[tuple[BaselineJob, BaselineReport | RunOutcome]]:
        """Fit baselines side by side, as many tasks as there is room for.

        A baseline that runs on every replicate seed is fitted seed by seed, one task each. Each task takes one worker's
        resources, whatever a trial takes. As with trials, a task whose worker or node is lost is run again elsewhere,
        and a baseline that runs out of memory once more with nothing beside it.
        """
        fit, write = ray.remote(fit_baseline), ray.remote(write_baseline)
        stored = ray.put(self._shared)
        # A part to fit; None: all is fitted, to be written.
        left = deque[tuple[_Baseline, BaselineJob | None]](
            part for job in jobs for part in _Baseline(job).parts()
        )
        waiting: dict[Any, tuple[_Baseline, BaselineJob | None]] = {}
        while (left or waiting) and not self._draining():
            while left and len(waiting) < self._baseline_limit():
                baseline, part = left.popleft()
                takes = baseline.takes or {"cpu": self._resources.cpu, "gpu": self._resources.gpu}
                options = {
                    "num_cpus": takes["cpu"], "num_gpus": takes["gpu"], "max_retries": MAX_LOSSES - 1,
                }  # fmt: skip
                reference: Any
                if part is None:
                    reference = write.options(**options).remote(stored, baseline.job, *baseline.fits)
                else:
                    reference = fit.options(**options).remote(stored, part, takes["gpu"])
                    baseline.fits.append(reference)
                waiting[reference] = (baseline, part)
            done, _ = ray.wait(list(waiting), timeout=0.5)
            for reference in done:
                baseline, part = waiting.pop(reference)
                if part is not None:  # what a fit died of, writing dies of
                    baseline.unfitted -= 1
                    if not baseline.unfitted:
                        left.appendleft((baseline, None))
                    continue
                try:
                    yield baseline.job, ray.get(reference)
                except ray.exceptions.RayError as error:
                    if self._draining():
                        return
                    outcome = RunOutcome.of_error(error)
                    if outcome.kind == "out_of_memory" and not baseline.takes:
                        baseline.takes = _exclusive(self._one_worker)
                        if baseline.takes is not None:
                            left.extendleft(baseline.parts())
                            continue
                    yield baseline.job, outcome
                baseline.fits.clear()  # the store may let the models go
        for reference in waiting:
            ray.cancel(reference, force=True)


@dataclass(eq=False)
class _Baseline:
    """A baseline under way: what is still to be fitted, and references of what is.

    Attributes:
        job: the baseline.
        unfitted: parts that are still to be fitted. fits: references of all parts.
        takes: what its tasks take; None: what all take.
    """

    job: BaselineJob
    unfitted: int = 0
    fits: list[Any] = field(default_factory=list)
    takes: Takes | None = None

    def parts(self) -> list[tuple[_Baseline, BaselineJob | None]]:
        """All that there is to fit, from the beginning."""
        parts = self.job.parts()
        self.unfitted = len(parts)
        self.fits.clear()
        return [(self, part) for part in parts]


def _exclusive(resources: ResourceSection) -> Takes | None:
    wider = exclusive_resources(resources, [node.machine for node in alive_nodes()])
    return None if wider is None else {"cpu": wider.cpu, "gpu": wider.gpu}


def _trainable(shared: Shared, resources: ResourceSection) -> Any:
    """The trainable with its data and what it takes: a bundle for each worker, and none for what steps them."""
    workers = resources.workers

    def request(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        takes = config.get("takes") or {"cpu": resources.cpu, "gpu": resources.gpu}
        bundle = {"CPU": float(takes["cpu"])} | ({"GPU": float(takes["gpu"])} if takes["gpu"] else {})
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
    before = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in before if not name.startswith("AWS_")}
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE = before
