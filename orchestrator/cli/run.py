"""The verbs that run a sweep, look at it while it runs, and stop it; thin, as those of orchestrator.cli.main."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from orchestrator.cli.output import emit, out
from orchestrator.errors import UsageError


def launch(options: argparse.Namespace) -> int:
    from orchestrator.spec.schema import load_spec

    if options.submit:
        from orchestrator.cluster.address import job_server
        from orchestrator.cluster.submit import submit_sweep

        runs = str(options.runs if isinstance(options.runs, Path) else options.runs.given)
        address = job_server(options.address, os.environ)
        return submit_sweep(
            load_spec(options.file, options.overrides), options.file, options.overrides, runs, address,
            options.follow, options.quiet,
        )  # fmt: skip
    if options.follow:
        raise UsageError(
            "launch: --follow goes with --submit; without it the sweep is driven, and followed, from here"
        )
    from orchestrator.cluster.address import driver_address, on_cluster
    from orchestrator.cluster.ray_session import ray_environment
    from orchestrator.run.launch import launch_sweep

    # Before the file is read: that imports the user's modules, which may import Ray, which reads its environment then.
    with on_cluster(driver_address(options.address, os.environ)), ray_environment():
        spec = load_spec(options.file, options.overrides)
        return launch_sweep(spec, options.file, options.runs, quiet=options.quiet, cluster=options.address)


def doctor(options: argparse.Namespace) -> int:
    from orchestrator.cluster.address import driver_address, on_cluster
    from orchestrator.cluster.code_package import references_in, sweep_package
    from orchestrator.cluster.doctor import doctor_document, doctor_text, raise_all
    from orchestrator.spec.schema import load_spec

    spec = None if options.file is None else load_spec(options.file, options.overrides)
    address, package = driver_address(options.address, os.environ), None
    if address:
        content = b"" if options.file is None else options.file.read_bytes()
        package = sweep_package(content, () if spec is None else references_in(spec.resolved()))
    with on_cluster(address):
        document = doctor_document(spec, options.runs, address, package, options.nodes, options.wait)
    emit(options, document, lambda: doctor_text(document))
    raise_all(document["problems"])
    return 0


def stop(options: argparse.Namespace) -> int:
    from orchestrator.progress import Progress
    from orchestrator.records.folder import RunFolder
    from orchestrator.run.stop import stop_sweep

    folder = RunFolder.open(options.runs, options.sweep)
    return stop_sweep(folder, options.timeout, options.cancel, Progress(options.quiet))


def logs(options: argparse.Namespace) -> int:
    from orchestrator.records.folder import RunFolder
    from orchestrator.records.logs import follow, log_of, logs_document

    folder = RunFolder.open(options.runs, options.sweep)
    if options.follow:
        if options.json:
            raise UsageError("logs: --follow goes on, --json prints one document; give one of them")
        for piece in follow(folder, log_of(folder, options.trial)):
            out(piece)
            sys.stdout.flush()
        return 0
    document = logs_document(folder, options.trial)
    emit(options, document, lambda: "\n".join(document["lines"]))
    return 0
