"""A Ray cluster of several nodes on this machine, each a `ray start` of its own with its own environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.command import environment
from tests.fakes.servers import free_ports

JOIN = """
import json, signal, sys
from ray._private.node import Node
from ray._private.parameter import RayParams
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
node = Node(RayParams(**json.loads(sys.argv[1])), head=False, shutdown_at_exit=False, spawn_reaper=True)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
print("Ray runtime started", flush=True)
try:
    signal.sigwait({signal.SIGTERM})
finally:
    node.kill_all_processes(check_alive=False, allow_graceful=True)
"""
"""A node that joins, as Ray's own test cluster makes one: `ray start` refuses to join a cluster on loopback."""

RAY = str(Path(sys.executable).parent / "ray")
TOKEN = "0123456789abcdef0123456789abcdef"


def wait_for(process: subprocess.Popen[bytes], log: Path, timeout: float = 120) -> None:
    """Until the `ray start` that writes to a log says that the node is up."""
    end = time.monotonic() + timeout
    while "Ray runtime started" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)


class Nodes:
    """Nodes on loopback; ended by their process groups.

    Args:
        home: for logs and the token. scratch: Ray's folder, with a short name.
    """

    def __init__(self, home: Path, scratch: Path) -> None:
        self._home, self._scratch = home, scratch
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        token = home / "token"
        token.write_text(TOKEN)
        token.chmod(0o600)
        self.variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        (port,) = free_ports(1)
        self.address = f"127.0.0.1:{port}"

    def start_head(self, *arguments: str, **variables: str) -> None:
        """Start the head; ``arguments`` of `ray start`."""
        agent, metrics, grpc, env_agent, client = free_ports(5)
        command = [
            RAY, "start", "--block", "--head", f"--port={self.address.rpartition(':')[2]}",
            f"--temp-dir={self._scratch}", "--include-dashboard=false", "--node-ip-address=127.0.0.1",
            "--object-store-memory=80000000", f"--dashboard-agent-listen-port={agent}",
            f"--metrics-export-port={metrics}", f"--dashboard-agent-grpc-port={grpc}",
            f"--runtime-env-agent-port={env_agent}", f"--ray-client-server-port={client}", *arguments,
        ]  # fmt: skip
        self._start("head", command, **variables)
        self.wait("head")

    def join(
        self, name: str, cpus: int, gpus: int = 0, wrapper: Sequence[str] = (), **variables: str
    ) -> None:
        """Start another node; ``wrapper`` is a command that takes its command as arguments."""
        agent, metrics, grpc, env_agent = free_ports(4)
        parameters = {
            "gcs_address": self.address, "redis_address": self.address, "node_ip_address": "127.0.0.1",
            "num_cpus": cpus, "num_gpus": gpus, "object_store_memory": 80_000_000, "include_log_monitor": False,
            "temp_dir": str(self._scratch), "dashboard_agent_listen_port": agent, "metrics_export_port": metrics,
            "metrics_agent_port": grpc, "runtime_env_agent_port": env_agent, "node_manager_port": 0,
            "min_worker_port": 0, "max_worker_port": 0,
        }  # fmt: skip
        self._start(name, [*wrapper, sys.executable, "-c", JOIN, json.dumps(parameters)], **variables)

    def _start(self, name: str, command: Sequence[str], **variables: str) -> None:
        inherited = environment(
            RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", **self.variables
        )
        inherited.pop("PYTHONPATH")
        inherited["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{inherited['PATH']}"
        with self._log(name).open("w") as log:
            self._processes[name] = subprocess.Popen(
                command, cwd=self._home, env=inherited | variables, stdout=log, stderr=log, start_new_session=True
            )  # fmt: skip

    def wait(self, name: str, timeout: float = 120) -> None:
        """Until `ray start` says that the node is up."""
        wait_for(self._processes[name], self._log(name), timeout)

    def stop(self, name: str) -> None:
        """End a node, its workers too."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def stop_all(self) -> None:
        """The head last."""
        for name in reversed(list(self._processes)):
            self.stop(name)

    def _log(self, name: str) -> Path:
        return self._home / f"{name}.log"
