"""Ray for one sweep: a private cluster on this machine, or the one that RAY_ADDRESS names."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.cluster.address import on_loopback_only
from orchestrator.cluster.capacity import Capacity, Machine, shortage
from orchestrator.cluster.code_package import Package
from orchestrator.errors import PreflightError
from orchestrator.spec.sections import ResourceSection
from orchestrator.tracking.address import masked

LOOK_AGAIN_S = 2.0
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TQDM": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # pages of raylet logs on stdout for every node that dies: we say it in a line
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",  # our searcher says how many; an autoscaler is to see all that wait at once
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver drains by its own handler
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextlib.contextmanager
def ray_environment() -> Iterator[None]:
    """What Ray reads of the environment, most of it while it is imported: enter this before."""
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    _let_workers_import()
    with contextlib.ExitStack() as stack:
        if not _address() or on_loopback_only(_address()):
            # Ray's own switch for one machine, on by default on two systems: without it every server of a private
            # cluster listens on all interfaces, whatever address `ray.init` is given.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        if not _address():
            stack.enter_context(_own_token())
        yield


def _address() -> str:
    return os.environ.get("RAY_ADDRESS", "").strip()


@contextlib.contextmanager
def _own_token() -> Iterator[None]:
    """A token for a private cluster, in a file of its own: Ray would make one in the home folder."""
    given = (
        "RAY_AUTH_TOKEN_PATH" in os.environ or "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_MODE" in os.environ
    )
    if given:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="selmix-") as folder:
        path = Path(folder) / "token"  # the folder is readable by its owner only
        path.write_text(secrets.token_hex(32))
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
        try:
            yield
        finally:
            for key in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
                os.environ.pop(key, None)


@contextlib.contextmanager
def ray_cluster(package: Package | None = None) -> Iterator[None]:
    """Ray, for as long as the block lasts; a private cluster listens on loopback.

    Args:
        package: the code that the nodes of a running cluster are to use; None: theirs, or that of the submitted job.
    Raises:
        PreflightError: Ray does not start, or nobody answers at RAY_ADDRESS.
    """
    import ray

    address = _address()
    try:
        if address:
            with _shipped(package) as environment:
                ray.init(
                    address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment
                )
        else:
            with _no_drain_signal_for_children():
                ray.init(
                    address="local", log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False
                )
    except Exception as error:  # a boundary: Ray raises many kinds here
        where = f"Ray cluster at {masked(address)}" if address else "Ray on this machine"
        raise PreflightError(f"{where}: must start, got: {str(error).splitlines()[0]}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _shipped(package: Package | None) -> Iterator[dict[str, str] | None]:
    """The runtime environment that brings a package to the nodes: workers begin in it and import from it."""
    if package is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="selmix-") as folder:
        path = Path(folder) / package.file_name
        path.write_bytes(package.content)
        yield {"working_dir": str(path)}


@contextlib.contextmanager
def _no_drain_signal_for_children() -> Iterator[None]:
    """What is started inside ignores SIGTERM and SIGUSR1, as Ray sees to it for SIGINT.

    A signal to the whole process group (Slurm's, `timeout`'s) would take the cluster away from under the driver, and
    Ray ends a driver whose cluster is gone at once, before it could drain. The mask is inherited; ours is put back.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _let_workers_import() -> None:
    """Workers do not inherit the driver's sys.path: a checkout that is not installed must be on PYTHONPATH."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *paths])


class Room:
    """How many trials to ask for at once, as the cluster is when it is asked.

    What fits on its nodes, those that joined late too, or on what its autoscaler may add, within the sweep's own
    bounds, and ``most`` trials at most. What another sweep holds now is not taken off: a trial takes all it needs at
    once or waits, so that sweeps which share a cluster wait for each other but never for ever.

    Args:
        tell: told, once each time, that no node is left on which a trial fits.
    Raises:
        PreflightError: not even one fits at the beginning; Tune would wait for ever, in silence.
    """

    def __init__(
        self, resources: ResourceSection, most: int | None, tell: Callable[[str], None] = lambda text: None
    ) -> None:
        from orchestrator.cluster.nodes import alive_nodes, capacity, cluster_capacity

        self._resources, self._most, self._tell, self._told = resources, most, tell, False
        self._found = cluster_capacity() if _address() else capacity(alive_nodes(), None)
        self._asked = time.monotonic()
        problem = shortage(resources, self._found)
        if problem is not None:
            raise PreflightError(problem)

    def __call__(self) -> int:
        """At least one: where no node is left that fits, it waits for one, and an autoscaler sees that it does."""
        from orchestrator.cluster.nodes import alive_nodes

        now = time.monotonic()
        if now - self._asked > LOOK_AGAIN_S:
            self._asked = now
            machines = tuple(node.machine for node in alive_nodes())
            self._found = dataclasses.replace(self._found, machines=machines)
            problem = shortage(self._resources, self._found)
            if problem is not None and not self._told:
                self._tell(f"waiting for a node: {problem.removeprefix('resources: ')}")
            self._told = problem is not None
        return max(1, self._found.at_once(self._resources, self._most))


def check_local_resources(resources: ResourceSection) -> None:
    """What a trial asks for exists on this machine; asked before anything is written or started.

    Raises:
        PreflightError: it does not.
    """
    if _address():
        return
    problem = shortage(resources, Capacity((Machine(*local_resources()),)))
    if problem is not None:
        raise PreflightError(problem)


def local_resources() -> tuple[float, float]:
    """CPUs and GPUs that Ray will find here."""
    import torch

    return float(len(os.sched_getaffinity(0))), float(torch.cuda.device_count())
