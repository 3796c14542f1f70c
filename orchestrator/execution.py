"""Runs on Ray: trials and replicates by Tune, baselines as tasks."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from orchestrator.search import BookCallback, DrainStopper, RunSearcher, Source, last_line
from orchestrator.sections import ResourceSection
from orchestrator.trials import TrialBook
from trainables.baseline import BaselineJob, fit_baseline, write_baseline
from trainables.finetune import FinetuneTrainable
from trainables.ranks import RankPlan
from trainables.shared import Shared


def run_source(
    source: Source,
    shared: Shared,
    book: TrialBook,
    resources: ResourceSection,
    at_once: int,
    storage: str,
    asked_to_drain: Callable[[], bool],
) -> None:
    """Run everything a source hands out; actors are used again from run to run.

    Args:
        at_once: how many runs are alive at once. storage: a folder that no earlier Tuner used,
            on the file system of ``shared``.
    """
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    tuner = tune.Tuner(
        _trainable(shared, resources),
        tune_config=tune.TuneConfig(
            search_alg=RunSearcher(source, book, asked_to_drain), num_samples=-1,
            max_concurrent_trials=at_once, reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=storage.rpartition("/")[2], storage_path=storage.rpartition("/")[0],
            storage_filesystem=shared.filesystem,
            callbacks=[BookCallback(book, asked_to_drain)],
            stop=DrainStopper(asked_to_drain), verbose=0, failure_config=tune.FailureConfig(max_failures=0),
            # A run asks for its checkpoints itself, its last one too.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )  # fmt: skip
    tuner.fit()


def _trainable(shared: Shared, resources: ResourceSection) -> Any:
    """The trainable with its data and what it takes: a bundle for each worker, and none for what steps them."""
    cpu, gpu = resources.cpu, resources.gpu
    if resources.workers == 1:
        return tune.with_resources(
            tune.with_parameters(FinetuneTrainable, shared=shared), {"cpu": cpu, "gpu": gpu}
        )
    bundle = {"CPU": float(cpu)} | ({"GPU": float(gpu)} if gpu else {})
    ranks = RankPlan(ray.put(shared), resources.workers, cpu, gpu)
    return tune.with_resources(
        tune.with_parameters(FinetuneTrainable, ranks=ranks),
        tune.PlacementGroupFactory([{}] + [bundle] * resources.workers),
    )


@dataclass(eq=False)
class _Baseline:
    """A baseline under way: what is still to be fitted, and references of what is."""

    job: BaselineJob
    unfitted: int
    fits: list[Any]


def run_baselines(
    jobs: Sequence[BaselineJob],
    shared: Shared,
    resources: ResourceSection,
    at_once: int,
    asked_to_drain: Callable[[], bool],
) -> Iterator[tuple[BaselineJob, dict[str, Any] | None, str | None]]:
    """Fit baselines side by side, ``at_once`` tasks at most; each as it ends with its figures, or what it died of.

    A baseline that runs on every replicate seed is fitted seed by seed, one task each. Each task takes one worker's
    resources, whatever a trial takes.
    Ends early, without the rest, once draining is asked for.
    """
    options = {"num_cpus": resources.cpu, "num_gpus": resources.gpu, "max_retries": 0}
    fit, write = ray.remote(fit_baseline).options(**options), ray.remote(write_baseline).options(**options)
    stored = ray.put(shared)
    left = deque[tuple[_Baseline, BaselineJob | None]]()  # a part to fit; None: all is fitted, to be written
    for job in jobs:
        parts = job.parts()
        baseline = _Baseline(job, len(parts), [])
        left.extend((baseline, part) for part in parts)
    waiting: dict[Any, tuple[_Baseline, BaselineJob | None]] = {}
    while (left or waiting) and not asked_to_drain():
        while left and len(waiting) < at_once:
            baseline, part = left.popleft()
            if part is None:
                reference = write.remote(stored, baseline.job, *baseline.fits)
            else:
                reference = fit.remote(stored, part)
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
                yield baseline.job, None, last_line_of(error)
            baseline.fits.clear()  # the store may let the models go
    for reference in waiting:
        ray.cancel(reference, force=True)


def last_line_of(error: Exception) -> str:
    """What a task died of, in one line."""
    return last_line(_Errored(error))


@dataclass(frozen=True)
class _Errored:
    error: Exception

    def get_error(self) -> Exception:
        return self.error
