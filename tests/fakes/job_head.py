"""A cluster of one node with a job server on loopback, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.command import environment
from tests.fakes.nodes import RAY, TOKEN
from tests.fakes.servers import Server, free_ports


@dataclass(frozen=True)
class Head:
    """``variables`` let a client in; below ``scratch`` Ray keeps its logs and packages."""

    address: str
    server: str
    variables: dict[str, str]
    scratch: Path

    def jobs(self, kind: str = "SUBMISSION") -> list[dict[str, Any]]:
        """Every job that was ever submitted, or, of the kind ``DRIVER``, that connected from elsewhere."""
        token = Path(self.variables["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(
            f"{self.server}/api/jobs/", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            listed: list[dict[str, Any]] = json.load(answer)
        return [job for job in listed if job["type"] == kind]

    def answers(self) -> bool:
        try:
            return self.jobs() == []
        except OSError:
            return False


@contextlib.contextmanager
def job_head(home: Path, **variables: str) -> Iterator[Head]:
    """``ray start --head`` with a token, without our code on its path; ``variables`` are in its jobs' environment."""
    token = home / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    gcs, dashboard, agent, metrics, grpc, env_agent, client = free_ports(7)
    entrance = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    inherited = environment(
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", RAY_USAGE_STATS_ENABLED="0",
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", **entrance, **variables,
    )  # fmt: skip
    inherited.pop("PYTHONPATH")
    # Sockets below it must have short names.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch:
        command = [
            RAY, "start", "--head", "--block", "--include-dashboard=true",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--node-ip-address=127.0.0.1",
            f"--port={gcs}", f"--temp-dir={scratch}", "--num-cpus=2", f"--dashboard-agent-listen-port={agent}",
            f"--metrics-export-port={metrics}", f"--dashboard-agent-grpc-port={grpc}",
            f"--runtime-env-agent-port={env_agent}", f"--ray-client-server-port={client}",
        ]  # fmt: skip
        made = Head(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", entrance, Path(scratch))
        with Server(command, made.answers, home / "log", inherited):
            yield made
