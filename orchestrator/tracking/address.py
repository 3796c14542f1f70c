"""Where MLflow is: resolving the address, showing it without credentials, and asking quickly whether it answers.

Nothing here imports mlflow, whose import takes a second and whose own answer to a wrong address takes minutes.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import re
import ssl
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from orchestrator.errors import PreflightError

VERSION_TIMEOUT_S = 3.0
CHECK_TIMEOUT_S = 8.0
"""Over all of a check: a name server that does not answer is not covered by the socket's own limit."""

SQLITE = "sqlite:///"
SERVERS = ("http://", "https://")
DATABASES = re.compile(r"(postgresql|mysql|mssql)(\+\w+)?://")
SECRET_FIELDS = re.compile(
    r"([?&][^=&]*(?:password|passwd|token|secret|user|key)[^=&]*=)[^&#]*", re.IGNORECASE
)


def tracking_address(runs: Path, environ: Mapping[str, str]) -> str:
    """The address that MLflow is asked under: MLFLOW_TRACKING_URI, or a store of our own in the runs folder.

    Args:
        runs: the runs folder; need not exist.
        environ: of the process; only MLFLOW_TRACKING_URI is read.
    Returns:
        An address with an absolute path where it is a file: MLflow would resolve a relative one against
        whatever the working folder then is. Credentials are still in it: show :func:`masked` only.
    Raises:
        PreflightError: the address is of a kind that MLflow 3 refuses or that we do not support.
    """
    given = environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not given:
        return f"{SQLITE}{(Path(runs).absolute() / 'mlflow.db')}"
    if given.startswith(SERVERS):
        return given.rstrip("/")
    if DATABASES.match(given):
        return given
    path, _, query = given.removeprefix(SQLITE).partition("?")
    if given.startswith(SQLITE) and path and path != ":memory:":
        # normpath: one store must have one address, whichever folder it was launched from
        absolute = os.path.normpath(Path(path).absolute())
        return f"{SQLITE}{absolute}" + (f"?{query}" if query else "")
    raise PreflightError(
        f"MLFLOW_TRACKING_URI: must be http(s)://..., sqlite:///FILE or a database, got {masked(given)!r}"
        f" (folders as stores are gone in MLflow 3); unset it to use {SQLITE}{runs}/mlflow.db"
    )


def masked(address: str) -> str:
    """``address`` without user, password and secret query fields, fit for messages, tags and files."""
    if address.startswith("sqlite:"):
        return address
    # up to the last @, also beyond a slash: an unescaped password must not show either
    return SECRET_FIELDS.sub(r"\1***", re.sub(r"//.*@", "//", address))


def scrubbed(text: str, address: str) -> str:
    """``text`` without the credentials that ``address`` carries: errors of HTTP libraries quote the address."""
    shown = masked(address)
    text = text.replace(address, shown)
    found = re.search(r"//(.*)@", address) if shown != address else None
    if found is None:
        return text
    text = text.replace(f"{found[1]}@", "")
    password = found[1].partition(":")[2]
    for secret in {password, unquote(password)}:
        text = text.replace(secret, "***") if len(secret) >= 4 else text
    return text


def sqlite_path(address: str) -> Path | None:
    """The file of a SQLite address, None for any other."""
    return Path(address.removeprefix(SQLITE).partition("?")[0]) if address.startswith(SQLITE) else None


@contextlib.contextmanager
def first_opening(address: str) -> Iterator[None]:
    """Held while a store is opened: two processes that open a new SQLite file at once break it for good.

    The lock goes with the process that holds it, so a killed one leaves nothing behind but an empty file.

    Raises:
        PreflightError: the folder of the store cannot be written.
    """
    path = sqlite_path(address)
    if path is None:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock").open("a")
    except OSError as error:
        raise _unwritable(path, error) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check_tracking(address: str) -> None:
    """Ask within seconds whether MLflow can be written at ``address``; leaves nothing behind.

    A server is asked for its version; a SQLite file's folder (or what exists of it) is written to and the
    file must look like one. Other databases are left to MLflow's first call.

    Raises:
        PreflightError: it cannot; the message names the masked address and what to do.
    """
    path = sqlite_path(address)
    if path is not None:
        _check_file(path)
    if not address.startswith(SERVERS):
        return
    found: list[PreflightError | None] = []
    asking = threading.Thread(target=lambda: found.append(_server_problem(address)), daemon=True)
    asking.start()
    asking.join(CHECK_TIMEOUT_S)
    problem = found[0] if found else _unreachable(address, f"no answer within {CHECK_TIMEOUT_S:.0f} s")
    if problem is not None:
        raise problem


def _check_file(path: Path) -> None:
    existing = next(folder for folder in path.parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"x")
        if path.exists():
            with path.open("r+b") as file:
                head = file.read(15)
            if head not in {b"", b"SQLite format 3"}:
                raise PreflightError(
                    f"{path}: must be an SQLite file; move it away or set MLFLOW_TRACKING_URI"
                )
    except OSError as error:
        raise _unwritable(path, error) from error


def _server_problem(address: str) -> PreflightError | None:
    try:
        with urllib.request.urlopen(
            _version_request(address), timeout=VERSION_TIMEOUT_S, context=_tls()
        ) as answer:
            body = answer.read(64).decode(errors="replace").strip()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in {401, 403}:
            return _unreachable(
                address, f"refused with {error.code}", "check its credentials and allowed hosts"
            )
        return _unreachable(address, f"/version answered {error.code}")
    except Exception as error:  # http.client and codecs raise more kinds than can be listed
        return _unreachable(address, scrubbed(str(getattr(error, "reason", error)), address))
    if not re.match(r"\d+\.\d+", body):
        return _unreachable(address, "what answers there is no MLflow server")
    return None


def _version_request(address: str) -> urllib.request.Request:
    """As MLflow would ask: with the credentials of the address or of MLflow's own environment variables."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(
        urlunsplit((parts.scheme, host, f"{parts.path.rstrip('/')}/version", "", ""))
    )
    user = os.environ.get("MLFLOW_TRACKING_USERNAME") or unquote(parts.username or "")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD") or unquote(parts.password or "")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if user:
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {basic}")
    elif token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return request


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in {"true", "1"}:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _unreachable(address: str, reason: str, advice: str = "start it or check the address") -> PreflightError:
    # a proxy that does not know the server makes a local one look refused
    proxied = any(os.environ.get(name) for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"))
    hint = ", set NO_PROXY for its host" if proxied else ""
    return PreflightError(
        f"MLflow at {masked(address)}: must answer, got: {reason}; {advice}{hint},"
        " or unset MLFLOW_TRACKING_URI to use a file in the runs folder"
    )


def _unwritable(path: Path, error: OSError) -> PreflightError:
    reason = error.strerror or str(error)
    return PreflightError(
        f"MLflow at {SQLITE}{path}: its folder must be writable: {reason};"
        " choose another --runs folder or set MLFLOW_TRACKING_URI"
    )


def ui_command(address: str, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """The command that serves MLflow's pages over a store, to be run with :func:`ui_environment`.

    Returns:
        Arguments for ``subprocess``; for the address of a server that runs already ``[masked address]``,
        which is to be shown, not run.
    """
    if address.startswith(SERVERS):
        return [masked(address)]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        host,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    return command + (["--backend-store-uri", address] if sqlite_path(address) is not None else [])


def ui_environment(address: str, environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` for :func:`ui_command`: a tenth of the processes, and a database's password off the command."""
    extra = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    if sqlite_path(address) is None:
        extra["MLFLOW_BACKEND_STORE_URI"] = address
    return {**environ, **extra}
