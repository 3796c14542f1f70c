"""``selmix plan``: what a sweep will take, from a probe of some rounds. Writes nothing and starts no cluster."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from orchestrator.build.selection import warnings_of
from orchestrator.cluster.capacity import Machine, fits
from orchestrator.cluster.ray_session import local_resources
from orchestrator.records.object_store import Runs
from orchestrator.run.preflight import check_all
from orchestrator.search.space import default_point, settings, trials_per_objective
from orchestrator.spec.schema import SweepSpec
from orchestrator.tracking.address import masked
from orchestrator.verbs.plan_probe import measure, memory_warnings
from selmix.baselines import baselines_for
from selmix.baselines.catalogue import FINETUNE_FOLDS

START_S = 12.0  # Ray, its workers and the first imports, on a laptop
RUN_OVERHEAD_S = 0.3  # handing over, checkpoint, records
FITTED_AGAIN = (
    1 + FINETUNE_FOLDS
)  # fine-tunings a replicate seed in the baselines: uniform_mixup, selmix_post_hoc


def plan_document(spec: SweepSpec, runs: Runs) -> dict[str, Any]:
    """Runs, seconds and bytes that a sweep will take.

    Raises:
        PreflightError: as a launch would.
    """
    address, data = check_all(spec, runs)
    config = settings(spec, default_point(spec), next(iter(spec.arms.values())))
    probe = measure(spec, data, config)
    objectives, cpus_gpus = len(spec.objectives), local_resources()
    per_study, studies = trials_per_objective(spec), objectives * len(spec.arms)
    trials = per_study * studies
    # The defaults are run again beside the best, if they are not among them.
    finalists = min(spec.selection.finalists + 1, per_study)
    replicates = finalists * spec.selection.replicates * studies
    baselines = len(baselines_for(data.num_groups))
    at_once = _at_once(spec, *cpus_gpus)
    trial_s = probe["trial_s"] + RUN_OVERHEAD_S
    baselines_s = (
        objectives
        * spec.selection.replicates
        * (FITTED_AGAIN * probe["one_worker_trial_s"] + probe["pretrain_s"])
    )
    # Baselines run on one worker each, so that several fit where one trial does.
    total_s = (
        START_S
        + probe["pretrain_s"]
        + (trials + replicates) * trial_s / at_once
        + baselines_s / (at_once * spec.resources.workers)
    )
    models = trials + replicates + objectives * baselines * spec.selection.replicates
    local = runs if isinstance(runs, Path) else runs.working
    existing = next(folder for folder in (local, *local.absolute().parents) if folder.exists())
    return {
        "schema_version": 1,
        "sweep": spec.name,
        "trials": trials,
        "replicates": replicates,
        "baselines": objectives * baselines,
        "at_once": at_once,
        "resources": {"cpus": cpus_gpus[0], "gpus": cpus_gpus[1], "workers": spec.resources.workers},
        "probe": probe,
        "estimated_s": total_s,
        "estimated_bytes": models * probe["weights_bytes"] + (trials + replicates) * probe["table_bytes"],
        "free_bytes": shutil.disk_usage(existing).free,
        "tracking_uri": masked(address),
        "warnings": [*warnings_of(spec), *memory_warnings(probe["memory"], spec.resources, at_once)],
    }


def _at_once(spec: SweepSpec, cpus: float, gpus: float) -> int:
    fitting, most = fits(spec.resources, [Machine(cpus, gpus)]), spec.search.max_concurrent_trials
    return max(1, fitting if most is None else min(fitting, most))


def plan_text(document: dict[str, Any]) -> str:
    """The plan for a terminal."""
    probe, memory = document["probe"], document["probe"]["memory"]
    return "\n".join([
        f"{document['sweep']}: about {duration(document['estimated_s'])}, {megabytes(document['estimated_bytes'])} "
        f"of {megabytes(document['free_bytes'])} free",
        f"  {document['trials']} trials and at most {document['replicates']} runs of finalists on fresh seeds, "
        f"{document['at_once']} at once{_on_workers(document)}, about {probe['trial_s']:.1f} s each "
        f"({probe['rounds']} rounds, {probe['rounds_measured']} measured)",
        f"  memory: about {memory['peak_bytes'] / 1e9:.1f} GB for a worker, {memory['fit']} would fit in the "
        f"{memory['device_bytes'] / 1e9:.1f} GB of {'one GPU' if memory['device'] == 'cuda' else 'this machine'}",
        f"  {document['baselines']} baselines; base model about {probe['pretrain_s']:.1f} s",
        f"  MLflow: {document['tracking_uri']}",
        *(f"  warning: {warning}" for warning in document["warnings"]),
    ])  # fmt: skip


def _on_workers(document: dict[str, Any]) -> str:
    workers = document["resources"]["workers"]
    return f" on {workers} workers each (baselines on one)" if workers > 1 else ""


def duration(seconds: float) -> str:
    """``45 s``, ``3 min`` or ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def megabytes(count: float) -> str:
    return f"{count / 1e6:.0f} MB" if count < 1e10 else f"{count / 1e9:.0f} GB"
