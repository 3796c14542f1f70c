"""Hosts with addresses of their own on this machine: network namespaces on one bridge that nothing else reaches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.command import environment
from tests.fakes.nodes import RAY, TOKEN, wait_for
from tests.fakes.servers import free_ports

NETWORK = "10.213.77"
HEAD = f"{NETWORK}.1"


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def allowed() -> bool:
    """Whether this user may make network namespaces."""
    name = f"selmix-{os.getpid()}-try"
    try:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
    if made:
        subprocess.run(["ip", "netns", "delete", name], check=False)
    return made


class Hosts:
    """A head that holds the bridge, and hosts that are added, killed and cut off; all is gone afterwards.

    Args:
        home: for logs and the token.
    """

    def __init__(self, home: Path) -> None:
        self._home, self._prefix = home, f"selmix-{os.getpid()}"
        self._numbers: dict[str, int] = {}
        self._scratch = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        token = home / "token"
        token.write_text(TOKEN)
        token.chmod(0o600)
        self.variables = {
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0",
        }  # fmt: skip
        self.address = f"{HEAD}:{free_ports(1)[0]}"

    def __enter__(self) -> Hosts:
        head = self.namespace("head")
        _run("ip", "netns", "add", head)
        self._inside("head", "ip", "link", "set", "lo", "up")
        self._inside("head", "ip", "link", "add", "bridge", "type", "bridge")
        self._inside("head", "ip", "address", "add", f"{HEAD}/24", "dev", "bridge")
        self._inside("head", "ip", "link", "set", "bridge", "up")
        self._numbers["head"] = 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed(list(self._numbers)):
            self.kill(name)
            _run("ip", "netns", "delete", self.namespace(name))
        self._scratch.cleanup()

    def namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def on(self, name: str, command: Sequence[str]) -> list[str]:
        """A command as it is run on a host."""
        return ["ip", "netns", "exec", self.namespace(name), *command]

    def add(self, name: str) -> None:
        """A host on the network, with nothing running."""
        number = len(self._numbers) + 1
        self._numbers[name] = number
        _run("ip", "netns", "add", self.namespace(name))
        port = f"port{number}"
        pair = (
            "ip",
            "link",
            "add",
            port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            self.namespace(name),
        )
        self._inside("head", *pair)
        self._inside("head", "ip", "link", "set", port, "master", "bridge", "up")
        self._inside(name, "ip", "address", "add", f"{self.address_of(name)}/24", "dev", "eth0")
        self._inside(name, "ip", "link", "set", "lo", "up")
        self._inside(name, "ip", "link", "set", "eth0", "up")

    def address_of(self, name: str) -> str:
        return f"{NETWORK}.{self._numbers[name]}"

    def start_head(self, cpus: int, *arguments: str) -> None:
        """Ray's head, on the host that holds the bridge."""
        self._start("head", "--head", f"--port={self.address.rpartition(':')[2]}", f"--temp-dir={self._scratch.name}",
                    f"--num-cpus={cpus}", "--include-dashboard=false", *arguments)  # fmt: skip

    def start(self, name: str, cpus: int, gpus: int) -> None:
        """A node of the cluster; its GPUs are only counted."""
        self._start(name, f"--address={self.address}", f"--num-cpus={cpus}", f"--num-gpus={gpus}")

    def _start(self, name: str, *arguments: str) -> None:
        """Ray on a host, with a temporary folder of its own: `ip netns exec` gives a command its own mounts."""
        inherited = environment(SELMIX_FAKE_GPUS="1", **self.variables)
        inherited["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{inherited['PATH']}"
        command = [
            RAY, "start", "--block", f"--node-ip-address={self.address_of(name)}",
            "--object-store-memory=80000000", "--disable-usage-stats", *arguments,
        ]  # fmt: skip
        log = self._home / f"{name}.log"
        if name != "head":
            command = ["sh", "-c", f'mount -t tmpfs selmix {self._scratch.name} && exec "$@"', "sh", *command]
        with log.open("w") as file:
            process = subprocess.Popen(
                self.on(name, command), cwd=self._home, env=inherited, stdout=file, stderr=file, start_new_session=True
            )  # fmt: skip
        wait_for(process, log)

    def kill(self, name: str) -> None:
        """``kill -9`` of everything that runs on a host, as when its power is lost."""
        for pid in self.processes(name):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def processes(self, name: str) -> list[int]:
        return [int(pid) for pid in _run("ip", "netns", "pids", self.namespace(name)).split()]

    def cut(self, name: str) -> None:
        """Off the network; what runs there goes on."""
        self._inside(name, "ip", "link", "set", "eth0", "down")

    def mend(self, name: str) -> None:
        """On the network again."""
        self._inside(name, "ip", "link", "set", "eth0", "up")

    def _inside(self, name: str, *command: str) -> None:
        _run(*self.on(name, command))
