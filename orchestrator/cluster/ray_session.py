"""Ray for one sweep: a private cluster on this machine, or a running one."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from orchestrator.cluster.address import Cluster, on_loopback_only
from orchestrator.cluster.code_package import Package
from orchestrator.errors import PreflightError
from orchestrator.messages import first_line
from orchestrator.signals import blocked_for_children, exit_code_after
from trainables.node import import_torch

END_S = 15.0
"""Seconds that a launch waits for the end of its Ray at most."""

_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # with it and ``verbose=0`` Tune prints nothing of a success
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
    # Ray's default, stated: a worker without GPUs keeps its CUDA_VISIBLE_DEVICES.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TQDM": "0",
    # Ray prints pages of raylet logs for every node that dies; the recorder warns with one line per run.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    # Json, csv and event files of Tune would repeat our records.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # With a searcher of our own Tune lets one trial wait at a time. Our searcher limits their number, and an
    # autoscaler is to see all that wait at once.
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",
    # Of a private cluster: a worker that has imported torch waits for the next task, and is not ended after a second.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver drains by its own handler
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # tracebacks go to the runs' own logs
    # Nothing reads Tune's snapshots, so their frequency needs no warning.
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextlib.contextmanager
def ray_environment(cluster: Cluster, roots: Sequence[Path] = ()) -> Iterator[None]:
    """Set the environment variables that Ray reads; enter before Ray is imported, which reads most of them.

    Args:
        cluster: that the driver is to connect to.
        roots: folders that the user's own modules are imported from.
    """
    # Defaults only: what the user has set stays.
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    _let_workers_import(roots)
    if cluster.is_private or on_loopback_only(cluster.address):
        # Ray's own switch for one machine, on by default on Windows and macOS: without it every server of a private
        # cluster listens on all interfaces, whatever address `ray.init` is given.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    # Processes that Ray starts would join the cluster that RAY_ADDRESS names, whichever one this driver uses.
    before = os.environ.pop("RAY_ADDRESS", None)
    try:
        with _own_token() if cluster.is_private else contextlib.nullcontext():
            yield
    finally:
        if before is not None:
            os.environ["RAY_ADDRESS"] = before


@contextlib.contextmanager
def _own_token() -> Iterator[None]:
    """Make a token for a private cluster, in a file of its own: Ray would make one in the home folder."""
    # A user who configures authentication brings the token.
    names = ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE")
    if any(name in os.environ for name in names):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="selmix-") as folder:
        path = Path(folder) / "token"  # the folder is readable by its owner only
        path.write_text(secrets.token_hex(32))
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
        _read_token_anew()
        try:
            yield
        finally:
            for key in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
                os.environ.pop(key, None)
            _read_token_anew()


def _read_token_anew() -> None:
    """Let Ray read whether there is a token, and which.

    It does so when it is imported, and once: a notebook may have imported it before, or launched another sweep.
    """
    library = sys.modules.get("ray._raylet")
    if library is None:
        return
    # Not public; where another version has it elsewhere, only the first launch of a process starts a Ray.
    with contextlib.suppress(AttributeError):
        library.Config.initialize("")
        library.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def connected(cluster: Cluster) -> Iterator[None]:
    """Start a private Ray, which listens on loopback, or connect to a cluster, for as long as the block lasts.

    Args:
        cluster: to connect to.
    Raises:
        PreflightError: Ray does not start, or the cluster does not take this driver.
    """
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if cluster.is_private:
            # A plain ray.init would try to join any other cluster of this machine that is alive.
            # Without its cluster Ray ends a driver at once, before it could drain. Of SIGINT Ray sees to it itself.
            with blocked_for_children({signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP}):
                ray.init(address="local", include_dashboard=False, **quiet)
        else:
            with _shipped(cluster.package) as environment:
                ray.init(address=cluster.address, runtime_env=environment, **quiet)
    except Exception as error:  # a boundary: Ray raises many kinds here
        if cluster.is_private:
            step, advice = "Ray on this machine: must start", "look at Ray's own logs"
        else:
            step = f"Ray cluster at {cluster.shown}: must accept this driver"
            advice = "check the address, the cluster's Ray version and its token"
        raise PreflightError(f"{step}, got: {first_line(error)}; {advice}") from error
    try:
        yield
    finally:
        if cluster.is_private:
            _without_grace()
        ray.shutdown()


@dataclass
class RayStart:
    """Start of Ray on a thread of its own.

    Attributes:
        over: set once Ray is there, or has failed to come.
        problems: what kept it away.
    """

    over: threading.Event = field(default_factory=threading.Event)
    problems: list[BaseException] = field(default_factory=list)

    @classmethod
    def none(cls) -> RayStart:
        """Start of no Ray, which is over."""
        start = cls()
        start.over.set()
        return start

    def wait(self) -> None:
        """Wait until Ray is there, and raise what kept it away."""
        self.over.wait()
        if self.problems:
            raise self.problems[0]


@contextlib.contextmanager
def connecting(cluster: Cluster | None, workers: int = 0) -> Iterator[RayStart]:
    """Start or join Ray as :func:`connected` does, on a thread of its own, for as long as the block lasts.

    Starting Ray is waiting for its processes: meanwhile the driver opens MLflow and trains the base model.

    Args:
        cluster: to connect to; None for no Ray.
        workers: workers of a private Ray that import torch before there is work for them.
    """
    if cluster is None:
        yield RayStart.none()
        return
    start, ended = RayStart(), threading.Event()

    def hold() -> None:
        try:
            with contextlib.ExitStack() as session:
                with _sigterm_kept():
                    session.enter_context(connected(cluster))
                # A signal may have come meanwhile.
                if cluster.is_private and not ended.is_set():
                    _warm(workers)
                start.over.set()
                # Ray's processes end with the thread that started them, not only with this process.
                ended.wait()
        except BaseException as error:  # raised where it is waited for
            start.problems.append(error)
        finally:
            start.over.set()

    # It would say that it cannot take SIGTERM on this thread, where it must not have it.
    logging.getLogger("ray").setLevel(logging.ERROR)
    thread = threading.Thread(target=hold, name="selmix-ray", daemon=True)
    with sigterm_is_pythons():
        thread.start()
        try:
            yield start
        finally:
            ended.set()
            # A start that hangs must not keep a launch that was stopped: what it started ends with this process.
            thread.join(timeout=END_S)


@contextlib.contextmanager
def sigterm_is_pythons() -> Iterator[None]:
    """Let Python take SIGTERM from here on, so that this is what :func:`_sigterm_kept` finds: it ends the block.

    The drain sets another handler of Python's later.
    """
    default = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    # Handlers are set in the main thread alone; elsewhere, in a notebook's thread, it stays as it is.
    if not default or threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(exit_code_after(number))

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Put back what happens on SIGTERM at the end of the block, from whatever thread: Ray's library takes it.

    Python's own ``signal.signal`` works in the main thread alone, which does other things meanwhile.
    """
    library = ctypes.CDLL(None)
    # Larger than the structure is anywhere; only the library looks inside.
    before = ctypes.create_string_buffer(1024)
    library.sigaction(int(signal.SIGTERM), None, before)
    try:
        yield
    finally:
        library.sigaction(int(signal.SIGTERM), before, None)


def _warm(workers: int) -> None:
    """Let workers import what the first task needs; nothing waits for them, and a failure shows in the first task."""
    import ray

    task = ray.remote(import_torch)
    for _ in range(workers):
        task.options(num_cpus=1, max_retries=0).remote()


def _without_grace() -> None:
    """Let :func:`ray.shutdown` end the processes of a private cluster at once.

    They ignore its SIGTERM (:func:`connected`), and each would be waited for a second in vain. What
    the raylet has started, its agents and workers, ends with it here: by themselves the agents report to the head first
    that the raylet is gone, and without a head they try for minutes.
    """
    from ray._private import worker

    # Not public; where another version has it elsewhere, the end takes these seconds.
    node = getattr(worker, "_global_node", None)
    kill = getattr(node, "_kill_process_type", None)
    if node is None or kill is None:
        return
    try:
        psutil: Any = import_module("psutil")  # Ray's own copy, which it puts on the path
    except ImportError:
        return

    def ended(kind: str, **options: Any) -> None:
        raylets = node.all_processes.get(kind, []) if kind == "raylet" else []
        started: list[Any] = []
        for each in raylets:
            with contextlib.suppress(psutil.Error):
                started += psutil.Process(each.process.pid).children(recursive=True)
        kill(kind, **{**options, "allow_graceful": False})
        for process in started:
            with contextlib.suppress(psutil.Error):
                process.kill()

    node._kill_process_type = ended


@contextlib.contextmanager
def _shipped(package: Package | None) -> Iterator[dict[str, str] | None]:
    """Build the runtime environment that sends a package to the nodes: workers start in it and import from it."""
    if package is None:
        yield None
        return
    # Ray uploads the file while it connects, so it may go with the block.
    with tempfile.TemporaryDirectory(prefix="selmix-") as folder:
        path = Path(folder) / package.file_name
        path.write_bytes(package.content)
        yield {"working_dir": str(path)}


def _let_workers_import(roots: Sequence[Path]) -> None:
    """Put this checkout and the user's folders on PYTHONPATH: workers do not inherit the driver's sys.path."""
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    ours = str(Path(__file__).resolve().parents[2])
    before = [] if ours in paths else [ours]
    # The working folder Ray gives to its workers by itself.
    after = [str(root) for root in roots if root != Path.cwd() and str(root) not in paths]
    if before or after:
        os.environ["PYTHONPATH"] = os.pathsep.join([*before, *paths, *after])
