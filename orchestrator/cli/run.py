"""Verbs that run and stop sweeps; each imports what it needs itself, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex

from orchestrator.cli.imports import heavy_imports
from orchestrator.cli.output import emit
from orchestrator.credentials import masked
from orchestrator.errors import UsageError
from orchestrator.records.store import runs_flag


def pretrain(options: argparse.Namespace) -> int:
    with heavy_imports():
        from orchestrator.progress import Progress
        from orchestrator.spec.checks import load_spec
        from orchestrator.verbs.pretrain import pretrain_base, pretrain_text

    spec = load_spec(options.file, options.overrides)
    emit(options, pretrain_base(spec, options.output, options.runs, Progress(options.quiet)), pretrain_text)
    return 0


def launch(options: argparse.Namespace) -> int:
    if options.in_process and (options.submit or options.address is not None):
        raise UsageError(
            "launch: --in-process runs the sweep without a cluster; remove it, or remove --address and --submit"
        )
    if options.follow and not options.submit:
        raise UsageError(
            "launch: --follow needs --submit; without --submit the sweep runs, and prints its progress, in this process"
        )
    return _submit(options) if options.submit else _launch(options)


def _submit(options: argparse.Namespace) -> int:
    with heavy_imports():
        from orchestrator.cluster.address import job_server
        from orchestrator.cluster.submit import submit_sweep
        from orchestrator.spec.checks import load_spec

    return submit_sweep(
        load_spec(options.file, options.overrides), options.file, options.overrides, options.runs_text,
        job_server(options.address, os.environ), options.follow, options.quiet, options.until,
    )  # fmt: skip


def _launch(options: argparse.Namespace) -> int:
    with heavy_imports():
        from orchestrator.cluster.address import Cluster, driver_address
        from orchestrator.cluster.ray_session import ray_environment
        from orchestrator.run.launch import launch_sweep, needs_ray
        from orchestrator.spec.checks import load_spec

    cluster = None if options.in_process else Cluster(driver_address(options.address, os.environ))
    # Set before the file is read: that imports the user's modules, and Ray reads its environment when it is imported.
    with contextlib.nullcontext() if cluster is None else ray_environment(cluster):
        spec = load_spec(options.file, options.overrides)
        if cluster is not None and cluster.is_private and not needs_ray(spec, options.runs, options.until):
            cluster = None
        return launch_sweep(
            spec,
            options.file,
            options.runs,
            cluster,
            options.quiet,
            command=_again(options, options.until, options.in_process),
            # What stops trials early is Ray's, and cannot be had in this process.
            further=_again(options, None, options.in_process and spec.early_stopping is None),
            until=options.until,
            in_process=options.in_process,
        )


def _again(options: argparse.Namespace, until: str | None, in_process: bool) -> str:
    """The command line of a launch, to be given again as it is, but for these two flags."""
    flags = ["--in-process"] if in_process else []
    flags += ["--until", until] if until else []
    flags += ["--address", masked(options.address)] if options.address else []
    words = ["selmix", "launch", str(options.file), *options.overrides, *flags]
    return shlex.join(words) + runs_flag(options.runs.shown)


def stop(options: argparse.Namespace) -> int:
    from orchestrator.progress import Progress
    from orchestrator.records.folder import RunFolder
    from orchestrator.verbs.stop import stop_sweep

    folder = RunFolder.open(options.runs, options.sweep)
    return stop_sweep(folder, options.timeout, options.cancel, Progress(options.quiet))
