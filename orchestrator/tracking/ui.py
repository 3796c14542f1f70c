"""MLflow's web pages over the store of a runs folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

from orchestrator.credentials import masked
from orchestrator.errors import NotFound
from orchestrator.http_client import SERVERS
from orchestrator.records.store import Store
from orchestrator.tracking.address import sqlite_path, tracking_of


def open_ui(store: Store, host: str, port: int) -> int:
    """Serve the pages until interrupted; where MLFLOW_TRACKING_URI names a server, print its address.

    Args:
        store: the runs folder.
        host: address to listen on.
        port: port to listen on.
    Returns:
        Exit code of the server; 130 after Ctrl-C.
    Raises:
        NotFound: there is no store yet.
    """
    address = tracking_of(store)
    if address.startswith(SERVERS):
        sys.stdout.write(f"{masked(address)}\n")
        return 0
    # MLflow would create a missing file and show an empty page, as after a mistyped --runs.
    file = sqlite_path(address)
    if file is not None and not file.is_file():
        raise NotFound(f"{file}: no MLflow store yet; `selmix launch` makes it, --runs FOLDER names another")
    sys.stdout.write(f"http://{host}:{port}\n")
    # The address must be out before the server blocks: a script may wait for it through a pipe.
    sys.stdout.flush()
    command = ui_command(address, host, port)
    process = subprocess.Popen(command, env=ui_environment(address, os.environ), stdout=subprocess.DEVNULL)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        return 130


def ui_command(address: str, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
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
