"""MLflow's own pages over the store of a runs folder."""

from __future__ import annotations

import os
import subprocess
import sys

from orchestrator.errors import NotFound
from orchestrator.records.object_store import Runs
from orchestrator.run.preflight import tracking_of
from orchestrator.tracking.address import (
    SERVERS,
    masked,
    sqlite_path,
    ui_command,
    ui_environment,
)


def open_ui(runs: Runs, host: str, port: int) -> int:
    """Serve the pages until interrupted; where a server runs already, say its address.

    Raises:
        NotFound: there is no store yet.
    """
    address = tracking_of(runs)
    if address.startswith(SERVERS):
        sys.stdout.write(f"{masked(address)}\n")
        return 0
    store = sqlite_path(address)
    if store is not None and not store.is_file():
        raise NotFound(f"{store}: no MLflow store yet; `selmix launch` makes it, --runs FOLDER names another")
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
