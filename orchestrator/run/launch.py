"""``selmix launch``: what must hold before a sweep may run, and its folder; the driver does the rest."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from orchestrator.clock import utc_now
from orchestrator.cluster.address import check_reachable, driver_address, on_cluster
from orchestrator.cluster.code_package import references_in, sweep_package
from orchestrator.cluster.doctor import check_cluster
from orchestrator.errors import UsageError
from orchestrator.progress import Progress
from orchestrator.provenance import submission
from orchestrator.records.folder import RunFolder
from orchestrator.records.identity import new_sweep_id
from orchestrator.records.lease import acquire, check_free
from orchestrator.records.logs import append_log
from orchestrator.records.object_store import Runs
from orchestrator.records.types import SweepState
from orchestrator.run.preflight import check_all, check_unchanged, tracking_of
from orchestrator.spec.schema import SweepSpec
from orchestrator.tracking.address import masked


def launch_sweep(
    spec: SweepSpec, file: Path, runs: Runs, quiet: bool = False, cluster: str | None = None
) -> int:
    """Run a sweep, or go on with it.

    Args:
        spec: of the sweep. file: the sweep file, kept beside the result. runs: folder of all sweeps.
        cluster: ``HOST:PORT`` of a running one; None: as RAY_ADDRESS says.
    Returns:
        0; 5 too many trials failed; 6 an objective has no feasible trial; 130 or 143 drained after a signal.
    Raises:
        UsageError: the file changed since the first launch, or the sweep was cancelled for good.
        PreflightError: something that the sweep needs is not there, or another driver holds it.
    """
    progress = Progress(quiet)
    if not isinstance(runs, Path):
        runs.for_workers()
    folder = RunFolder.at(runs, spec.name)
    check_free(folder)  # before the seconds that the other checks take
    if is_launched(folder):
        check_unchanged(folder, spec, tracking_of(runs))
        state = folder.load_state()
        if state.cancelled:
            raise UsageError(
                f"{folder.shown}: this sweep was cancelled for good; launch it under a new name (name=NEW)"
            )
        if state.exit_code is not None and state.unsent == 0:
            progress.say(f"{spec.name} is {state.state}; to see it: selmix show {spec.name}")
            return state.exit_code
    ray_address = driver_address(cluster, os.environ)
    check_reachable(ray_address)
    with on_cluster(ray_address):
        address, data = check_all(spec, runs)
        from orchestrator.cluster.ray_session import ray_environment

        told, package = submission(), None
        if ray_address and not told:
            package = sweep_package(file.read_bytes(), references_in(spec.resolved()))
            told = {"package": package.digest, "package_bytes": len(package.content)}
        if ray_address:
            check_cluster(spec, runs, ray_address, package)
        with acquire(folder) as lease, ray_environment():
            folder.refresh()
            progress.keep(partial(append_log, folder, folder.log_path))
            state = open_folder(folder, spec, file, address)
            state.cluster = {"address": masked(ray_address), **told} if ray_address else {}
            where = f"on the Ray cluster at {masked(ray_address)}" if ray_address else "on this machine"
            progress.say(
                f"{spec.name} {where} is under way: process {lease.holder.pid} on {lease.holder.host}"
            )
            from orchestrator.run.driver import Driver

            return Driver(spec, folder, state, data, address, progress, lease, package).run()


def is_launched(folder: RunFolder) -> bool:
    """Whether the folder holds a sweep; one that was killed while it was made does not."""
    return folder.state_path.is_file() and bool(folder.load_spec())


def open_folder(folder: RunFolder, spec: SweepSpec, file: Path, address: str) -> SweepState:
    """The state of a sweep that goes on, or of one that begins: then its folder, file and identity are made."""
    if is_launched(folder):
        state = folder.load_state()
        state.state, state.problem = "running", None
    else:
        folder.create()
        folder.save_file(file)
        folder.save_spec(spec.resolved())
        state = SweepState(
            name=spec.name, sweep_id=new_sweep_id(), created=utc_now(), tracking_uri=masked(address),
            file_digest=spec.digest(),
        )  # fmt: skip
    folder.save_state(state)
    return state
