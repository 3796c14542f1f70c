"""Runs on Ray: trials and replicates by Tune, baselines as tasks."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import tune
from ray.tune.execution import class_cache

from orchestrator.cluster.capacity import without_neighbours
from orchestrator.cluster.nodes import alive_nodes
from orchestrator.run.faults import Failure, Fault
from orchestrator.run.recorder import TrialBook
from orchestrator.run.tune import MOST_LOST, BookCallback, DrainStopper, RunSearcher, Source
from orchestrator.spec.sections import ResourceSection
from trainables.baseline import BaselineJob, fit_baseline, write_baseline
from trainables.finetune import FinetuneTrainable
from trainables.ranks import RankPlan
from trainables.shared import Shared


def run_source(
    source: Source,
    shared: Shared,
    book: TrialBook,
    resources: ResourceSection,
    room: Callable[[], int],
    storage: str,
    asked_to_drain: Callable[[], bool],
) -> None:
    """Run everything a source hands out; actors are used again from run to run.

    Args:
        room: how many runs may be alive at once now. storage: a folder that no earlier Tuner used,
            on the file system of ``shared``.
    """
    # The book says which runs did not end well, and why.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    searcher = RunSearcher(source, book, asked_to_drain, room, functools.partial(_alone, resources))
    tuner = tune.Tuner(
        _trainable(shared, resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher, num_samples=-1, reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=storage.rpartition("/")[2], storage_path=storage.rpartition("/")[0],
            storage_filesystem=shared.filesystem,
            callbacks=[BookCallback(book, searcher)],
            stop=DrainStopper(asked_to_drain), verbose=0, failure_config=tune.FailureConfig(max_failures=0),
            # A run asks for its checkpoints itself, its last one too.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )  # fmt: skip
    with without_credentials():
        tuner.fit()


@contextlib.contextmanager
def without_credentials() -> Iterator[None]:
    """Tune puts the driver's AWS keys into the runtime environment of every trial, which Ray logs and shows on its
    dashboard. Nodes have credentials of their own, and a private cluster inherits its driver's environment.
    """
    before = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in before if not name.startswith("AWS_")}
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE = before


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


def _alone(resources: ResourceSection) -> dict[str, float] | None:
    """What a worker of a run that is to have no neighbours takes on the cluster as it is now."""
    wider = without_neighbours(resources, [node.machine for node in alive_nodes()])
    return None if wider is None else {"cpu": wider.cpu, "gpu": wider.gpu}


@dataclass(eq=False)
class _Baseline:
    """A baseline under way: what is still to be fitted, and references of what is.

    Attributes:
        takes: what its tasks take; None: what all take.
    """

    job: BaselineJob
    unfitted: int = 0
    fits: list[Any] = field(default_factory=list)
    takes: dict[str, float] | None = None

    def parts(self) -> list[tuple[_Baseline, BaselineJob | None]]:
        """All that there is to fit, from the beginning."""
        parts = self.job.parts()
        self.unfitted = len(parts)
        self.fits.clear()
        return [(self, part) for part in parts]


def run_baselines(
    jobs: Sequence[BaselineJob],
    shared: Shared,
    resources: ResourceSection,
    room: Callable[[], int],
    asked_to_drain: Callable[[], bool],
) -> Iterator[tuple[BaselineJob, dict[str, Any] | None, str | None]]:
    """Fit baselines side by side, as many tasks as there is ``room`` for; yields each with its figures, or its problem.

    A baseline that runs on every replicate seed is fitted seed by seed, one task each. Each task takes one worker's
    resources, whatever a trial takes. As with trials, a task whose worker or node is lost is run again elsewhere, and
    a baseline that runs out of memory once more with nothing beside it.
    Ends early, without the rest, once draining is asked for.
    """
    fit, write = ray.remote(fit_baseline), ray.remote(write_baseline)
    one_worker = resources.model_copy(update={"workers": 1})
    stored = ray.put(shared)
    # A part to fit; None: all is fitted, to be written.
    left = deque[tuple[_Baseline, BaselineJob | None]](
        part for job in jobs for part in _Baseline(job).parts()
    )
    waiting: dict[Any, tuple[_Baseline, BaselineJob | None]] = {}
    while (left or waiting) and not asked_to_drain():
        while left and len(waiting) < room():
            baseline, part = left.popleft()
            takes = baseline.takes or {"cpu": resources.cpu, "gpu": resources.gpu}
            options = {"num_cpus": takes["cpu"], "num_gpus": takes["gpu"], "max_retries": MOST_LOST - 1}
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
                yield baseline.job, ray.get(reference), None
            except ray.exceptions.RayError as error:
                if asked_to_drain():
                    return
                failure = Failure.of(error)
                wider = _alone(one_worker) if failure.fault is Fault.MEMORY and not baseline.takes else None
                if wider is not None:
                    baseline.takes = wider
                    left.extendleft(baseline.parts())
                    continue
                yield baseline.job, None, failure.text
            baseline.fits.clear()  # the store may let the models go
    for reference in waiting:
        ray.cancel(reference, force=True)
