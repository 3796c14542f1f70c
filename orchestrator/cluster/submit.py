"""``selmix launch --submit``: run the driver on the cluster, as a Ray job that outlives this machine.

Ray's dashboard shows what Ray stores of a job (entrypoint, runtime environment, metadata), so that never holds a
secret. Credentials are the nodes' own: in their environment, set by whoever starts the cluster.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.build.own_source import references_in
from orchestrator.cluster.code_package import SWEEP_FILE, Package, sweep_package
from orchestrator.cluster.job_server import Job, JobExists, JobServer
from orchestrator.credentials import SECRET_FIELDS, masked
from orchestrator.documents import to_document
from orchestrator.errors import PreflightError, UsageError
from orchestrator.http_client import SERVERS
from orchestrator.progress import Progress
from orchestrator.provenance import SUBMISSION, Submission, git_state
from orchestrator.spec.schema import SweepSpec
from selmix.rungs import Rung

POLL_S = 1.0
UNDER_WAY_S = 180.0
"""Seconds after which a submission without ``--follow`` stops waiting for its driver."""

STOP_WAIT_S = 30
"""Seconds that ``ray job stop`` gives the driver to drain, instead of Ray's three."""

# Line that `orchestrator.run.launch` prints once the driver has checked everything and holds the lease.
UNDER_WAY = re.compile(r"driven by process \d+")
OWN_SECRETS = (
    "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
)  # fmt: skip


def submit_sweep(
    spec: SweepSpec, file: Path, overrides: Sequence[str], runs: str, address: str, follow: bool, quiet: bool,
    until: Rung | None = None,
) -> int:  # fmt: skip
    """Submit a sweep to the job server, and wait until its driver is under way or, with ``follow``, has ended.

    Args:
        spec: specification of the sweep.
        file: the sweep file.
        overrides: of keys of the sweep file, as on the command line.
        runs: the runs folder as the cluster sees it, or an address of object storage.
        address: of the job server.
        follow: True to wait to the end of the sweep.
        quiet: True for warnings only.
        until: rung to end with; None to climb all.
    Returns:
        0, or the driver's exit code where it ended meanwhile; 130 after Ctrl-C, which leaves the sweep running.
    Raises:
        PreflightError: the job server does not answer, the sweep runs there already, or the package is too large.
        UsageError: a secret would be stored with the job.
    """
    progress = Progress(quiet)
    home = cluster_folder(runs)
    arguments = [
        "launch",
        SWEEP_FILE,
        "--runs",
        home,
        *overrides,
        *([] if until is None else ["--until", until]),
    ]
    # Secrets are refused before anything is sent.
    refuse_secrets(arguments)
    variables = job_variables(os.environ, progress)
    server = JobServer(address)
    server.check()
    package = sweep_package(file.read_bytes(), references_in(spec.resolved()))
    name, number = free_submission(server, spec.name, home)
    while True:
        submission_id = f"{name}-{number}"
        submitted = Submission(package.digest, len(package.content), submission_id, server.shown, git_state())
        own = {
            SUBMISSION: json.dumps(to_document(submitted)), "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
        }  # fmt: skip
        environment = {"working_dir": server.upload(package), "env_vars": variables | own}
        try:
            server.submit(submission_id, entrypoint(arguments), environment, metadata(spec, package, home))
            break
        # Another launch took the id since it was looked up: if that job runs, this call refuses; if not, take the next.
        except JobExists:
            name, number = free_submission(server, spec.name, home)
    progress.say(
        f"{spec.name}: job {submission_id} at {server.shown}, records in {home}/{spec.name}, "
        f"package {package.digest[:19]} ({len(package.content) / 1e6:.2f} MB)"
    )
    try:
        return attend(server, submission_id, spec.name, home, follow, progress)
    except KeyboardInterrupt:
        progress.warn(
            f"the sweep continues at {server.shown}; selmix stop {spec.name} --runs {home} stops it"
        )
        return 130


def attend(
    server: JobServer, submission_id: str, sweep: str, home: str, follow: bool, progress: Progress
) -> int:
    """Repeat what a job prints, until its driver is under way or the job has ended.

    Args:
        server: of the job.
        submission_id: of the job.
        sweep: name of the sweep.
        home: the runs folder as the cluster sees it.
        follow: True to wait to the end of the sweep.
        progress: shows what the job prints.
    Returns:
        0, or the driver's exit code where it ended meanwhile.
    Raises:
        PreflightError: the job is gone, or its driver never started.
    """
    shown, end = 0, time.monotonic() + UNDER_WAY_S
    while True:
        # The state before the log: a job that has ended by then has printed all its lines.
        job = server.job(submission_id)
        lines = server.log(submission_id).split("\n")
        # Jobs are stored on the head, and are gone with it.
        if job is None:
            raise PreflightError(
                f"job {submission_id}: must be on {server.shown}, it is gone; launch again to resume"
            )
        lines = lines if job.ended else lines[:-1]  # the last one may be half written
        for line in lines[shown:]:
            if line.strip():
                progress.say(f"  {line}")
        shown = max(shown, len(lines))
        if job.ended:
            return _ended(job, lines, progress)
        if not follow and any(UNDER_WAY.search(line) for line in lines):
            progress.say(f"selmix logs {sweep} --follow, show, stop: with --runs {home}, where that is seen")
            return 0
        if not follow and time.monotonic() > end:
            # No failure: the driver may get under way later.
            progress.warn(f"its driver was not under way within {UNDER_WAY_S:.0f} s; see job {submission_id}")
            return 0
        time.sleep(POLL_S)


def _ended(job: Job, lines: Sequence[str], progress: Progress) -> int:
    """Exit code of the driver of a job that has ended."""
    code = job.exit_code
    if code is None:
        code = 0 if job.status == "SUCCEEDED" else None
    # Without an exit code the driver never ran, or was killed: Ray's message is all there is.
    if code is None:
        last = next((line for line in reversed(job.message.splitlines()) if line.strip()), "no reason given")
        raise PreflightError(f"job {job.submission_id}: must run, {job.status.lower()}: {last.strip()}")
    if code:
        # The command line prints its errors with this prefix.
        errors = [line for line in lines if line.startswith("selmix: ")]
        progress.warn(errors[-1] if errors else f"its driver ended with exit code {code}")
    return code


def free_submission(server: JobServer, sweep: str, home: str) -> tuple[str, int]:
    """Name of a sweep's jobs, and the number of its next one: Ray takes each submission id once.

    Args:
        server: of the cluster.
        sweep: name of the sweep.
        home: the runs folder as the cluster sees it.
    Raises:
        PreflightError: a job of the sweep is alive.
    """
    name, number = submission_name(sweep, home), 1
    while (job := server.job(f"{name}-{number}")) is not None:
        if not job.ended:
            raise PreflightError(
                f"{sweep}: runs already, as job {job.submission_id} at {server.shown}; "
                f"selmix logs {sweep} --follow --runs {home} shows it, selmix stop ends it"
            )
        number += 1
    return name, number


def submission_name(sweep: str, home: str) -> str:
    """Name of the jobs of a sweep: the same for one sweep in one runs folder, whoever submits it.

    Args:
        sweep: name of the sweep.
        home: the runs folder as the cluster sees it.
    """
    return f"selmix-{sweep}-{hashlib.sha256(f'{home}/{sweep}'.encode()).hexdigest()[:8]}"


def cluster_folder(runs: str) -> str:
    """Runs folder as a job sees it: an address as it is, a folder by its absolute path."""
    # A job starts in its unpacked package, where a relative path would lead astray.
    return runs if re.match(r"[a-z][a-z0-9+]*:/", runs) else str(Path(runs).absolute())


def entrypoint(arguments: Sequence[str]) -> str:
    """Command of the job, which runs in the unpacked package and imports it."""
    # exec: a shell in between would die of the job server's stop signal, and its exit code would hide the driver's.
    return f"exec python -m orchestrator.cli {shlex.join(arguments)}"


def metadata(spec: SweepSpec, package: Package, home: str) -> dict[str, str]:
    """Facts that the dashboard shows beside the job.

    Args:
        spec: specification of the sweep.
        package: code of the sweep.
        home: the runs folder as the cluster sees it.
    """
    return {
        "selmix.sweep": spec.name, "selmix.runs": home, "selmix.package": package.digest,
        "selmix.package_bytes": str(len(package.content)), "selmix.spec": spec.digest(),
    }  # fmt: skip


def job_variables(environ: Mapping[str, str], progress: Progress) -> dict[str, str]:
    """Environment variables of the job: the tracking address without credentials, and nothing else.

    Args:
        environ: environment of this process.
        progress: shows which secrets stay on this machine.
    Raises:
        UsageError: the tracking address is of no use without its secret.
    """
    for name in OWN_SECRETS:
        if environ.get(name):
            progress.warn(f"{name} stays here: Ray shows a job's environment; set it on the cluster's nodes")
    address = environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not address:
        return {}
    bare = masked(address)
    if bare == address:
        return {"MLFLOW_TRACKING_URI": address}
    # MLflow's client takes user and password from variables too, which the nodes may have. A database URI or a token
    # in the address has no such other place.
    if not address.startswith(SERVERS) or SECRET_FIELDS.search(address):
        raise UsageError(
            f"MLFLOW_TRACKING_URI: must be without credentials to be submitted, got {bare} with some: Ray shows a "
            "job's environment. Set it in the environment of the cluster's nodes, and unset it here"
        )
    progress.warn(
        f"MLflow at {bare}: its credentials stay here, Ray shows a job's environment; set MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD on the cluster's nodes"
    )
    return {"MLFLOW_TRACKING_URI": bare}


def refuse_secrets(arguments: Sequence[Any]) -> None:
    """Check that no argument of the entrypoint carries credentials.

    Args:
        arguments: of the command line.
    Raises:
        UsageError: one of them does.
    """
    for argument in arguments:
        if masked(str(argument)) != str(argument):
            raise UsageError(
                f"{masked(str(argument))}: must be without credentials to be submitted: Ray shows a job's command; set "
                "them in the environment of the cluster's nodes"
            )
