"""``selmix launch``: check that a sweep may run, and open its folder; the driver does the rest."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.build.own_source import (
    changed_modules,
    functions_in,
    keep_sources,
    own_modules,
    references_in,
    roots_of,
)
from orchestrator.clock import utc_now
from orchestrator.cluster.address import Cluster, check_reachable
from orchestrator.cluster.code_package import sweep_package
from orchestrator.cluster.concurrency import local_resources
from orchestrator.cluster.doctor import check_cluster
from orchestrator.cluster.local_pool import local_pool, local_processes
from orchestrator.cluster.ray_session import connecting, ray_environment
from orchestrator.errors import PreflightError, TooManyFailures, UsageError
from orchestrator.progress import Progress
from orchestrator.provenance import Submission, submission
from orchestrator.records.folder import RunFolder
from orchestrator.records.leases.lease import acquire, check_free
from orchestrator.records.logs import append_log
from orchestrator.records.store import Store, runs_flag
from orchestrator.records.types import ClusterFacts, SweepState, new_sweep_id
from orchestrator.run.drain import stopped_at_once
from orchestrator.run.preflight import check_all, check_same_data, check_unchanged
from orchestrator.run.prepare import begin_base, staged
from orchestrator.spec.schema import SweepSpec
from orchestrator.tracking.address import recorded_address, tracking_of
from selmix import METHOD
from selmix.rungs import RUNGS, Rung, up_to

if TYPE_CHECKING:
    from selmix.data.splits import SweepData
    from trainables.staged import StagedData

WARM = 2
"""Workers of a private Ray that import torch while the driver opens MLflow: as many as the cheap rungs use at once."""


def launch_sweep(
    spec: SweepSpec,
    file: Path,
    store: Store,
    cluster: Cluster | None,
    quiet: bool = False,
    *,
    command: str | None = None,
    further: str | None = None,
    until: Rung | None = None,
    may_exit: bool = True,
    in_process: bool = True,
) -> int:
    """Run a sweep, or resume it.

    Args:
        spec: specification of the sweep.
        file: the sweep file, kept beside the result.
        store: the runs folder.
        cluster: to run on; None to run without Ray.
        quiet: True for warnings only.
        command: that resumes the sweep, for messages; None: ``selmix launch FILE``.
        further: that climbs the rungs which ``until`` leaves out, for messages; None: ``selmix launch FILE``.
        until: rung of the sweep to end with; a later launch goes on from there. None to climb all.
        may_exit: False where the process is not ours to end, a notebook's: a drain that hangs raises KeyboardInterrupt.
        in_process: without a cluster, True to do everything in this process; False to work in processes beside it.
    Returns:
        Exit code: 0 finished; 4 drained because the lease was lost; 5 too many trials failed; 6 an objective has no
        feasible trial; 130 or 143 drained after a signal.
    Raises:
        UsageError: the file changed since the first launch, or the sweep was cancelled for good.
        PreflightError: something that the sweep needs is missing, or another driver holds the sweep.
    """
    progress = Progress(quiet)
    store.check_for_launch()
    if until is not None and until not in spec.rungs:
        raise UsageError(
            f"launch: --until must be a rung of the sweep, {', '.join(spec.rungs)}, got {until}; see its key rungs"
        )
    if cluster is None:
        _check_in_process(spec, store, until)
    folder = RunFolder.at(store, spec.name)
    # First, because the other checks take seconds.
    check_free(folder)
    if is_launched(folder):
        state = folder.load_state()
        # First, because nothing that the other check could ask for would help.
        if state.cancelled:
            raise UsageError(
                f"{folder.shown}: this sweep was cancelled for good; launch it under a new name (name=NEW)"
            )
        # What a file leaves to the model may have another default now.
        spec = spec.resumed(folder.load_spec())
        check_unchanged(folder, spec, tracking_of(store))
        _check_source(folder, spec)
        # A sweep that ended and has sent everything to MLflow needs neither data nor Ray.
        if state.exit_code is not None and state.unsent == 0 and not _goes_on(state, spec, until):
            progress.say(
                f"{spec.name} is {state.state}; to see it: selmix show {spec.name}{runs_flag(store.shown)}"
            )
            return state.exit_code
    runs_elsewhere = cluster is not None and not cluster.is_private
    # Before the data is loaded: a wrong address is known in three seconds.
    if cluster is not None:
        check_reachable(cluster.address)
    tracking, data = check_all(spec, store, on_this_machine=not runs_elsewhere)
    if is_launched(folder):
        state = folder.load_state()
        # Of a sweep that was judged nothing is run any more.
        if state.exit_code is None or _goes_on(state, spec, until):
            check_same_data(folder, data)
    # Once: a sweep of before is not stopped in its middle by what it began with.
    told = [] if is_launched(folder) else _data_told(spec, data)
    submitted = submission()
    if cluster is not None and runs_elsewhere:
        # The driver of a submitted job runs in the package that was sent with the job, as do its workers.
        if submitted is None:
            package = sweep_package(file.read_bytes(), references_in(spec.resolved()))
            cluster = replace(cluster, package=package)
            submitted = Submission(package.digest, len(package.content))
        check_cluster(spec, store, cluster)
    roots = roots_of(references_in(spec.resolved()))
    environment = contextlib.nullcontext() if cluster is None else ray_environment(cluster, roots)
    again = f"selmix launch {file}{runs_flag(store.shown)}"
    stopped = stopped_at_once(progress, command or again)
    with acquire(folder) as lease, stopped as over, environment, contextlib.ExitStack() as ready:
        # Another driver may have changed the folder before the lease was taken.
        folder.refresh()
        progress.keep(partial(append_log, folder, folder.log_path))
        state = open_folder(folder, spec, file, tracking, until)
        state.cluster = _facts(cluster, submitted)
        # One that was judged is only sent again.
        runs, size = state.exit_code is None, 1
        if runs and cluster is None and not in_process:
            size = local_processes(spec.resources, local_resources()[0])
        alone = "in this process" if size == 1 else f"in {size} processes of this machine"
        where = alone if cluster is None else str(cluster)
        holder = lease.holder
        # ``launch --submit`` waits for this line.
        progress.say(f"{spec.name}: started {where}, driven by process {holder.pid} on {holder.host}")
        for line in told:
            progress.say(f"{spec.name}: {line}")
        pool = ready.enter_context(local_pool(size))
        mapped = None if pool is None else _mapped(folder, state, data)
        # Before the driver opens MLflow, which takes as long.
        base = begin_base(spec, mapped, folder, pool)
        # Imported here, because a refusal above needs neither MLflow nor Ray, and Ray reads its environment on import.
        from orchestrator.run.driver import Driver, Launch

        ray = ready.enter_context(
            connecting(cluster if runs else None, WARM if spec.resources.gpu == 0 else 0)
        )
        launch = Launch(
            spec,
            folder,
            data,
            tracking,
            progress,
            lease,
            cluster,
            ray,
            pool,
            mapped,
            base,
            command or again,
            further or again,
            may_exit,
        )
        code = Driver(launch, state).run()
        over.set()
        return code


def _mapped(folder: RunFolder, state: SweepState, data: SweepData) -> StagedData:
    """Data in a file that processes of this machine map.

    Raises:
        PreflightError: the file cannot be written; the sweep says so from then on.
    """
    try:
        return staged(folder, data, copied=False)
    except PreflightError as error:
        problem = f"{error}; in one process it is not needed: --in-process"
        state.state, state.problem = "stopped", problem
        folder.save_state(state)
        append_log(folder, folder.log_path, problem)
        raise PreflightError(problem) from error


def _data_told(spec: SweepSpec, data: SweepData) -> list[str]:
    # Imported here: it loads torch.
    from orchestrator.build.leaks import check_leaks

    return check_leaks(spec, data)


def _check_source(folder: RunFolder, spec: SweepSpec) -> None:
    """Check that an unfinished sweep resumes with the functions of the user's own that it began with.

    Raises:
        UsageError: the source of one has changed.
    """
    state = folder.load_state()
    # A finished sweep calls them no more; `pin` takes the source that was kept.
    if state.exit_code is not None or not state.objective_source:
        return
    changed = changed_modules(state.objective_source, own_modules(functions_in(spec.resolved())))
    if changed:
        raise UsageError(
            f"{folder.shown}: this sweep was launched with another source of its own functions; changed: "
            f"{', '.join(changed)}. The first one lies in {folder.shown}/{folder.source_path.name}: put it back, or "
            "launch the sweep under a new name (name=NEW)"
        )


def needs_ray(spec: SweepSpec, store: Store, until: Rung | None) -> bool:
    """False if a launch on this machine alone does without Ray: what it runs side by side are corrections and heads.

    Args:
        spec: specification of the sweep.
        store: the runs folder.
        until: rung to end with; None to climb all.
    """
    only_cheap = all(rung in ("scores", "head") for rung in up_to(spec.rungs, until))
    return not only_cheap or spec.resources.workers > 1 or store.filesystem() is not None


def _check_in_process(spec: SweepSpec, store: Store, until: Rung | None) -> None:
    """Check that a sweep needs no Ray.

    Raises:
        UsageError: the sweep has several workers, checkpoints that this process cannot write where they belong, or
            trials that Tune is to stop early.
    """
    # Without a search there is nothing to stop.
    if spec.early_stopping is not None and "finetune" in up_to(spec.rungs, until):
        raise UsageError(
            f"--in-process: trials are stopped early by Ray Tune alone, got early_stopping.method "
            f"{spec.early_stopping.method}; leave --in-process out, or early_stopping"
        )
    if spec.resources.workers > 1:
        raise UsageError(
            f"--in-process: runs have one worker, got resources.workers {spec.resources.workers}; set "
            "resources.workers=1, or leave --in-process out"
        )
    if store.filesystem() is not None:
        raise UsageError(
            f"--in-process: --runs must be a folder, got {store.shown}; name one, or leave --in-process out"
        )


def _facts(cluster: Cluster | None, submitted: Submission | None) -> ClusterFacts | None:
    if cluster is None or cluster.is_private:
        return None
    known = submitted or Submission()
    return ClusterFacts(
        cluster.shown, known.package, known.package_bytes, known.submission_id, known.job_server
    )


def is_launched(folder: RunFolder) -> bool:
    """True if the folder holds a sweep; a folder whose launch was killed while it was made does not."""
    return folder.state_path.is_file() and bool(folder.load_spec())


def _goes_on(state: SweepState, spec: SweepSpec, until: Rung | None) -> bool:
    """True if a launch climbs further than the one that ended the sweep."""
    if state.until is None or state.exit_code is None or state.exit_code == TooManyFailures.exit_code:
        return False
    last = spec.rungs[-1] if until is None else until
    return RUNGS.index(last) > RUNGS.index(state.until)


def open_folder(
    folder: RunFolder, spec: SweepSpec, file: Path, tracking: str, until: Rung | None = None
) -> SweepState:
    """Open the folder of a sweep that resumes, or make that of a new one, with its file and its identity.

    Args:
        folder: of the sweep.
        spec: specification of the sweep.
        file: the sweep file.
        tracking: address of MLflow.
        until: rung to end with; None to climb all.
    Returns:
        The state of the sweep.
    """
    if is_launched(folder):
        state = folder.load_state()
        state.state, state.problem = "running", None
        if _goes_on(state, spec, until):
            state.exit_code, state.ended, state.until = None, None, until
        elif state.exit_code is None:
            state.until = until
    else:
        folder.create()
        folder.save_file(file)
        folder.save_spec(spec.resolved())
        state = SweepState(
            name=spec.name, sweep_id=new_sweep_id(), created=utc_now(),
            tracking_uri=recorded_address(tracking, folder.store.root), file_digest=spec.digest(), method=METHOD,
            objective_source=keep_sources(folder, own_modules(functions_in(spec.resolved()))), until=until,
        )  # fmt: skip
    # The state is written last: a folder without it counts as not launched, and is made again.
    folder.save_state(state)
    return state
