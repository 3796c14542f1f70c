"""Runs on Ray: trials and replicates by Tune, baselines as tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from orchestrator.search import BookCallback, DrainStopper, RunSearcher, Source, last_line
from orchestrator.sections import ResourceSection
from orchestrator.trials import TrialBook
from trainables.baseline import run_baseline
from trainables.finetune import FinetuneTrainable, Shared


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
    trainable = tune.with_resources(
        tune.with_parameters(FinetuneTrainable, shared=shared), {"cpu": resources.cpu, "gpu": resources.gpu}
    )
    tuner = tune.Tuner(
        trainable,
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


@dataclass(frozen=True)
class BaselineJob:
    """Arguments of :func:`trainables.baseline.run_baseline`."""

    name: str
    objective: str
    config: dict[str, Any]
    winner_weights: list[str]
    seeds: list[int]
    folder: str


def run_baselines(
    jobs: Sequence[BaselineJob],
    shared: Shared,
    resources: ResourceSection,
    asked_to_drain: Callable[[], bool],
) -> Iterator[tuple[BaselineJob, dict[str, Any] | None, str | None]]:
    """Fit baselines side by side; each as it ends with its figures, or with what it died of.

    Ends early, without the rest, once draining is asked for.
    """
    task = ray.remote(run_baseline).options(num_cpus=resources.cpu, num_gpus=resources.gpu, max_retries=0)
    stored = ray.put(shared)
    waiting = {
        task.remote(
            stored, job.name, job.objective, job.config, job.winner_weights, job.seeds, job.folder
        ): job
        for job in jobs
    }
    while waiting and not asked_to_drain():
        done, _ = ray.wait(list(waiting), timeout=0.5)
        for reference in done:
            job = waiting.pop(reference)
            try:
                yield job, ray.get(reference), None
            except ray.exceptions.RayError as error:
                if asked_to_drain():
                    return
                yield job, None, last_line_of(error)
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
