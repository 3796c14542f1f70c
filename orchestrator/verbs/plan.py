"""``selmix plan``: estimate runs, time and disk of a sweep from a probe of some rounds. Writes nothing."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from orchestrator.build.selection import preprocess_keys, warnings_of
from orchestrator.cluster.capacity import Machine, fits
from orchestrator.cluster.concurrency import local_resources
from orchestrator.cluster.local_pool import local_processes
from orchestrator.credentials import masked
from orchestrator.documents import SCHEMA_VERSION
from orchestrator.messages import preprocess_words
from orchestrator.records.store import Store
from orchestrator.run.launch import needs_ray
from orchestrator.run.preflight import check_all
from orchestrator.search.space import default_point, settings, trials_per_objective
from orchestrator.spec.schema import SweepSpec
from orchestrator.table import paragraph, sentence
from orchestrator.verbs.plan_probe import Probe, measure, memory_warnings
from selmix.baselines import BASELINES, baselines_for
from selmix.baselines.catalogue import FINETUNE_FOLDS
from selmix.data.splits import SweepData
from selmix.data.stored import bytes_of

START_S = 12.0
"""Start of Ray, its workers and the first imports, on a laptop."""
RUN_OVERHEAD_S = 0.3
"""Scheduling, checkpoint and records of a run."""
FITTED_AGAIN = 3 + FINETUNE_FOLDS
"""Fine-tuning runs per replicate seed in the baselines: uniform_mixup, finetune_balanced, finetune_logit_adjusted, and
the folds of selmix_post_hoc."""


@dataclass(frozen=True)
class PlannedResources:
    """Resources of the plan.

    Attributes:
        cpus: CPUs of this machine.
        gpus: GPUs of this machine.
        workers: workers per trial.
    """

    cpus: float
    gpus: float
    workers: int


@dataclass(frozen=True, kw_only=True)
class PlanDocument:
    """Runs, seconds and bytes that a sweep will take.

    Attributes:
        schema_version: version of the document.
        sweep: name of the sweep.
        trials: trials of the search, at most.
        replicates: runs on fresh seeds, at most.
        baselines: baselines.
        at_once: trials that run at once on this machine.
        resources: resources of this machine, and workers per trial.
        probe: measurements of the probe.
        estimated_s: seconds of the whole sweep.
        estimated_bytes: bytes of the whole sweep on disk.
        free_bytes: free bytes on the disk of the runs folder.
        tracking_uri: address of MLflow, without credentials.
        warnings: one line each.
        preprocess: keys of the preprocessing of images, with their values; None where no image is decoded.
    """

    schema_version: int = SCHEMA_VERSION
    sweep: str
    trials: int
    replicates: int
    baselines: int
    at_once: int
    resources: PlannedResources
    probe: Probe
    estimated_s: float
    estimated_bytes: int
    free_bytes: int
    tracking_uri: str
    warnings: list[str]
    preprocess: dict[str, Any] | None = None


def plan_document(spec: SweepSpec, store: Store) -> PlanDocument:
    """Estimate the runs, seconds and bytes that a sweep will take.

    Raises:
        PreflightError: a launch would fail for the same reason.
    """
    address, data = check_all(spec, store)
    # Of an ablation the first value: that of trial 0.
    probe = measure(spec, data, settings(spec, default_point(spec), next(iter(spec.arms.values()))))
    (cpus, gpus), objectives, seeds = local_resources(), len(spec.objectives), spec.selection.replicates
    per_study, studies = trials_per_objective(spec) if spec.searches else 0, objectives * len(spec.arms)
    trials = per_study * studies
    # The defaults are run again beside the best, if they are not among them: one more than `finalists`, at most.
    replicates = min(spec.selection.finalists + 1, per_study) * seeds * studies
    baselines = objectives * sum(
        BASELINES[n].rung in spec.rungs for n in baselines_for(data.num_groups, spec.screen is not None)
    )
    on_ray = needs_ray(spec, store, None)
    concurrent = _concurrent(spec, cpus, gpus) if on_ray else local_processes(spec.resources, cpus)
    trials_s = (trials + replicates) * (probe.trial_s + RUN_OVERHEAD_S) / concurrent
    # The other baselines only fit a head or biases; heads are as long as many classes make them.
    again_s = FITTED_AGAIN * probe.one_worker_trial_s if spec.searches else 0.0
    baselines_s = objectives * seeds * (again_s + ("retrain" in spec.rungs) * probe.pretrain_s)
    baselines_s += objectives * probe.heads_s
    # Baselines run on one worker each, so that several fit in the place of one trial.
    workers = concurrent * spec.resources.workers
    # Stages of a screen, and the screens of the objectives, stand one after the other.
    screens_s = objectives * sum(max(longest, total / workers) for longest, total in probe.screen_stages)
    models = trials + replicates + baselines * seeds
    # The runs folder need not exist yet; the disk is that of its nearest existing parent.
    root = store.root.absolute()
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    return PlanDocument(
        sweep=spec.name,
        trials=trials,
        replicates=replicates,
        baselines=baselines,
        at_once=concurrent,
        resources=PlannedResources(cpus, gpus, spec.resources.workers),
        probe=probe,
        estimated_s=START_S * on_ray + probe.pretrain_s + trials_s + screens_s + baselines_s / workers,
        estimated_bytes=models * probe.weights_bytes
        + (trials + replicates) * probe.table_bytes
        + probe.features_bytes
        + _staged_bytes(spec, data, on_ray, concurrent),
        free_bytes=shutil.disk_usage(existing).free,
        tracking_uri=masked(address),
        warnings=[*warnings_of(spec), *memory_warnings(probe.memory, spec.resources, concurrent, on_ray)],
        preprocess=preprocess_keys(spec),
    )


def _staged_bytes(spec: SweepSpec, data: SweepData, on_ray: bool, concurrent: int) -> int:
    """Bytes of the file in which processes of this machine, or workers of Ray, find the data."""
    size = bytes_of(data)
    staged = size > spec.resources.stage_above_mb * 1e6 if on_ray else concurrent > 1
    return size if staged else 0


def _concurrent(spec: SweepSpec, cpus: float, gpus: float) -> int:
    fitting, limit = fits(spec.resources, [Machine(cpus, gpus)]), spec.search.max_concurrent_trials
    return max(1, fitting if limit is None else min(fitting, limit))


def plan_text(document: PlanDocument, width: int | None) -> str:
    """Text of a plan; its first line is the answer."""
    probe, memory = document.probe, document.probe.memory
    workers = document.resources.workers
    on_workers = f" on {workers} workers each (baselines on one)" if workers > 1 else ""
    heads = f", heads at least {probe.heads_s:.1f} s of work per objective" if probe.heads_s else ""
    screen = f", screen about {probe.screen_s:.1f} s of work per objective" if probe.screen_s else ""
    device = "one GPU" if memory.device == "cuda" else "this machine"
    searched = [
        ("trials", f"{document.trials}, {document.at_once} at once{on_workers}, about {probe.trial_s:.1f} s each "
                   f"({probe.rounds} rounds, {probe.rounds_measured} of them timed)"),
        ("finalists", f"at most {document.replicates} runs on fresh seeds"),
    ]  # fmt: skip
    lines = [
        *(searched if document.trials else [("trials", "none: the rungs have no finetune")]),
        ("baselines", f"{document.baselines}; base model about {probe.pretrain_s:.1f} s{heads}{screen}"),
        ("memory", f"about {memory.peak_bytes / 1e9:.1f} GB per worker, {memory.fit} would fit in the "
                   f"{memory.device_bytes / 1e9:.1f} GB of {device}"),
        *([] if document.preprocess is None else [("preprocess", preprocess_words(document.preprocess))]),
        ("mlflow", document.tracking_uri),
        *(("warning", warning) for warning in document.warnings),
    ]  # fmt: skip
    # Corrections are not timed, and heads by the least that they take: where there is nothing else, that is it.
    beside = "" if document.trials else " and seconds per baseline"
    first = (
        f"{document.sweep}: about {duration(document.estimated_s)}{beside}, {megabytes(document.estimated_bytes)} of "
        f"{megabytes(document.free_bytes)} free"
    )
    return "\n".join([sentence(first, width), *(paragraph(label, text, width) for label, text in lines)])


def duration(seconds: float) -> str:
    """``45 s``, ``3 min`` or ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def megabytes(count: float) -> str:
    """``12 MB``, or ``80 GB`` from 10 GB on."""
    return f"{count / 1e6:.0f} MB" if count < 1e10 else f"{count / 1e9:.0f} GB"
