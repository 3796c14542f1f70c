"""MLflow's web pages over the store of a runs folder."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from orchestrator.errors import NotFound, PreflightError
from orchestrator.http_client import SERVERS
from orchestrator.records.store import Store
from orchestrator.signals import Stopped, stopped_by_signals
from orchestrator.tracking.address import sqlite_path, tracking_of
from orchestrator.tracking.view import HOST, PORT, pages_of


def open_ui(
    store: Store, host: str, port: int, links: Callable[[str], Sequence[str]] = lambda _pages: ()
) -> int:
    """Serve the pages until interrupted; where MLFLOW_TRACKING_URI names a server, print its address.

    Args:
        store: the runs folder.
        host: address to listen on.
        port: port to listen on.
        links: address of the pages -> lines to print below it.
    Returns:
        Exit code of the server; 130 after Ctrl-C, 143 after another signal.
    Raises:
        NotFound: there is no store yet.
        PreflightError: the port is taken, or the address is not one of this machine.
    """
    address = tracking_of(store)
    if address.startswith(SERVERS):
        sys.stdout.write("\n".join([pages_of(address), *links(pages_of(address))]) + "\n")
        return 0
    # MLflow would create a missing file and show an empty page, as after a mistyped --runs.
    file = sqlite_path(address)
    if file is not None and not file.is_file():
        raise NotFound(f"{file}: no MLflow store yet; `selmix launch` makes it, --runs FOLDER names another")
    check_port_free(host, port)
    pages = pages_of(address, host, port)
    sys.stdout.write("\n".join([pages, *links(pages)]) + "\n")
    # The address must be out before the server blocks: a script may wait for it through a pipe.
    sys.stdout.flush()
    command = ui_command(address, host, port)
    process = subprocess.Popen(command, env=ui_environment(address, os.environ), stdout=subprocess.DEVNULL)
    try:
        # Any signal that ends this command ends the server too: left alone it would keep the port.
        with stopped_by_signals():
            return process.wait()
    except KeyboardInterrupt as stop:
        process.terminate()
        process.wait()
        return stop.exit_code if isinstance(stop, Stopped) else 130


def check_port_free(host: str, port: int) -> None:
    """Check that the pages can be served there; the server itself would end in the midst of its own messages.

    Raises:
        PreflightError: the port is taken, or the address is not one of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # As the server opens it: a port whose last connections are only closing is free.
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    # OverflowError: a port beyond 65535.
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise PreflightError(
                f"--port: {host}:{port} must be free for MLflow's pages, but something listens there, perhaps another "
                f"`selmix ui`; end it, or choose another port: --port {port % 65535 + 1}"
            ) from error
        raise PreflightError(
            f"--host, --port: must be an address of this machine that may be listened on, got {host}:{port}: "
            f"{getattr(error, 'strerror', None) or error}"
        ) from error


def ui_command(address: str, host: str = HOST, port: int = PORT) -> list[str]:
    """Command that serves MLflow's pages over a store, to be run with :func:`ui_environment`.

    Args:
        address: SQLite file or database.
        host: address to listen on.
        port: port to listen on.
    """
    # One worker is enough for one user; each is a process of its own that imports mlflow.
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    return command + (["--backend-store-uri", address] if sqlite_path(address) is not None else [])


def ui_environment(address: str, environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` for :func:`ui_command`."""
    # Job execution would start ten times as many processes, for features that selmix does not use.
    extra = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    if sqlite_path(address) is None:
        # A database's password must not stand on the command line, where every user of the machine sees it.
        extra["MLFLOW_BACKEND_STORE_URI"] = address
    return {**environ, **extra}
