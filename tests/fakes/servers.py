"""Real servers on loopback, started by tests and ended by their pids: S3, MLflow, PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.tracking.ui import ui_command, ui_environment

BUCKET = "bucket"
KEY, SECRET = "storekey", "storesecret"
ADMIN = "admin"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def answers(url: str) -> bool:
    """Whether somebody answers there, whatever the answer is."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


class Server:
    """A server in a process group of its own, which is ended as a whole.

    Args:
        ready: whether it does its work. log: gets what it says.
    """

    def __init__(
        self, command: Sequence[str], ready: Callable[[], bool], log: Path, environ: Mapping[str, str] | None = None
    ) -> None:  # fmt: skip
        self._command, self._ready, self.log, self._environ = command, ready, log, environ

    def start(self) -> None:
        """Start it, for the first time or again, and wait until it is ready."""
        with self.log.open("a") as file:
            self.process = subprocess.Popen(
                self._command, cwd=self.log.parent, env=self._environ, stdout=file, stderr=file, start_new_session=True
            )  # fmt: skip
        end = time.monotonic() + 120
        while not self._ready():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """``kill -9``."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Its endpoint, ``http://127.0.0.1:PORT``, with one empty bucket."""
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"

    def makes_a_bucket() -> bool:
        try:
            made = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
            urllib.request.urlopen(made, timeout=5).close()
        except OSError:
            return False
        return True

    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with Server(command, makes_a_bucket, Path(home) / "log"):
            yield endpoint


def credentials(endpoint: str, secret: str = SECRET) -> dict[str, str]:
    """What a process needs in its environment to use the bucket."""
    return {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip


class MlflowServer(Server):
    """MLflow on loopback, its artifacts in ``folder``.

    Args:
        store: address of its database; None: a SQLite file in ``folder``.
        password: of :data:`ADMIN`: it lets nobody else in; None: it lets everybody in.
    """

    def __init__(self, folder: Path, store: str | None = None, password: str | None = None) -> None:
        self.folder = folder
        (port,) = free_ports(1)
        self.address = f"http://127.0.0.1:{port}"
        store = store or f"sqlite:///{folder}/server.db"
        environ = ui_environment(store, os.environ)
        command = [*ui_command(store, port=port), "--artifacts-destination", str(folder / "artifacts")]
        if password is not None:
            settings = folder / "auth.ini"
            settings.write_text(
                f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{folder}/auth.db\n"
                f"admin_username = {ADMIN}\nadmin_password = {password}\n"
                "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            )
            environ |= {
                "MLFLOW_AUTH_CONFIG_PATH": str(settings),
                "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-a-test",
            }
            command += ["--app-name", "basic-auth"]
        super().__init__(command, lambda: answers(f"{self.address}/version"), folder / "mlflow.log", environ)


def postgres_programs() -> Path | None:
    """Where Debian or the PATH has PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextlib.contextmanager
def postgres(password: str) -> Iterator[str]:
    """A PostgreSQL server with an empty database, as an address for MLflow."""
    programs, (port,) = postgres_programs(), free_ports(1)
    assert programs is not None
    with tempfile.TemporaryDirectory(prefix="pg-") as home:
        Path(home).chmod(0o755)
        data, secret = Path(home) / "data", Path(home) / "password"
        data.mkdir()
        secret.write_text(password)
        user: list[str] = []
        if os.getuid() == 0:  # it refuses to run as root
            user = ["runuser", "-u", "postgres", "--"]
            owner = pwd.getpwnam("postgres")
            for path in (data, secret):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        initdb = [*user, f"{programs}/initdb", "-D", str(data), "-U", "mlflow", "-A", "scram-sha-256"]
        subprocess.run([*initdb, f"--pwfile={secret}"], check=True, capture_output=True, cwd="/")
        command = [*user, f"{programs}/postgres", "-D", str(data), "-p", str(port), "-k", str(data)]
        check = [f"{programs}/pg_isready", "-h", "127.0.0.1", "-p", str(port)]
        ready = lambda: subprocess.run(check, capture_output=True, check=False).returncode == 0  # noqa: E731
        with Server([*command, "-c", "listen_addresses=127.0.0.1"], ready, Path(home) / "log"):
            yield f"postgresql+psycopg://mlflow:{password}@127.0.0.1:{port}/postgres"
