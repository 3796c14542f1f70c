"""MLflow's own pages over the store of a runs folder."""

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
    """Serve the pages until interrupted; where a server runs already, say its address.

    Args:
        store: the runs folder.
        host, port: to listen on.
    Returns:
        The exit code.
    Raises:
        NotFound: there is no store yet.
    """
    address = tracking_of(store)
    if address.startswith(SERVERS):
        sys.stdout.write(f"{masked(address)}\n")
        return 0
    file = sqlite_path(address)
    if file is not None and not file.is_file():
        raise NotFound(f"{file}: no MLflow store yet; `selmix launch` makes it, --runs FOLDER names another")
    sys.stdout.write(f"http://{host}:{port}\n")
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
        address: of a file or a database.
        host, port: to listen on.
    """
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    return command + (["--backend-store-uri", address] if sqlite_path(address) is not None else [])


def ui_environment(address: str, environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` for :func:`ui_command`: a tenth of the processes, and a database's password off the command."""
    extra = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    if sqlite_path(address) is None:
        extra["MLFLOW_BACKEND_STORE_URI"] = address
    return {**environ, **extra}
