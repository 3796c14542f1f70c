"""Address of MLflow: resolve it, and check within seconds that it answers.

Nothing here imports mlflow, whose import takes a second and whose own answer to a wrong address takes minutes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import ssl
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

from orchestrator.credentials import masked
from orchestrator.errors import PreflightError
from orchestrator.http_client import SERVERS, Request, Unreachable, ask, basic, credentials_of, proxy_hint
from orchestrator.records.store import Store

VERSION_TIMEOUT_S = 3.0
CHECK_TIMEOUT_S = 8.0
"""Limit of the whole check: a name server that does not answer is not covered by the socket's own limit."""

SQLITE = "sqlite:///"
OWN_FILE = "mlflow.db"
OWN = f"{SQLITE}{OWN_FILE}"
"""The file of a runs folder, as records and pins name it: wherever the folder lies, on whatever machine."""
DATABASES = re.compile(r"(postgresql|mysql|mssql)(\+\w+)?://")


def tracking_of(store: Store) -> str:
    """Address of MLflow for a runs folder.

    Raises:
        PreflightError: no server is named and the runs folder cannot hold an SQLite file, or the address is of a kind
            that is not supported.
    """
    # SQLite needs a folder that this machine sees; an object store has none, so a server must be named there.
    own = store.own_tracking()
    if own is None and not os.environ.get("MLFLOW_TRACKING_URI", "").strip():
        raise PreflightError(
            f"MLFLOW_TRACKING_URI: must be set where --runs is an object store ({store.shown}), got nothing; name the "
            "MLflow server that every driver of this sweep reaches"
        )
    return tracking_address(own or store.root, os.environ)


def tracking_address(runs: Path, environ: Mapping[str, str]) -> str:
    """Tracking address: MLFLOW_TRACKING_URI, or an SQLite file in the runs folder.

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
        return own_address(runs)
    if given.startswith(SERVERS):
        return given.rstrip("/")
    if DATABASES.match(given):
        return given
    path, _, query = given.removeprefix(SQLITE).partition("?")
    if given.startswith(SQLITE) and path and path != ":memory:":
        # normpath: one store must have one address, whichever folder it was launched from; a resume compares it.
        absolute = os.path.normpath(Path(path).absolute())
        return f"{SQLITE}{absolute}" + (f"?{query}" if query else "")
    raise PreflightError(
        f"MLFLOW_TRACKING_URI: must be http(s)://..., sqlite:///FILE or a database, got {masked(given)!r}"
        f" (folders as stores are gone in MLflow 3); unset it to use {SQLITE}{runs}/mlflow.db"
    )


def own_address(runs: Path) -> str:
    """Address of the SQLite file in a runs folder, whatever characters its path has."""
    path = str(Path(runs).absolute() / OWN_FILE)
    # In an address a query begins at a question mark, and %20 is a blank.
    return f"{SQLITE}{path.replace('%', '%25').replace('?', '%3F')}"


def sqlite_path(address: str) -> Path | None:
    """File of an SQLite address; None for any other."""
    if not address.startswith(SQLITE):
        return None
    return Path(unquote(address.removeprefix(SQLITE).partition("?")[0]))


def recorded_address(address: str, runs: Path) -> str:
    """An address as records keep it: without credentials, and for the file of the runs folder without its path.

    Args:
        address: tracking address.
        runs: the runs folder.
    """
    return OWN if address == own_address(runs) else masked(address)


def present_address(recorded: str, runs: Path) -> str:
    """The address that a record names, where the runs folder now lies.

    Args:
        recorded: by :func:`recorded_address`, or by an earlier version, which kept the path of the file.
        runs: the runs folder.
    """
    own = own_address(runs)
    if recorded == OWN:
        return own
    # A path that an earlier version kept: if nothing lies there any more, the folder was moved with its file.
    path = sqlite_path(recorded)
    moved = path is not None and path.name == OWN_FILE and not path.exists()
    return own if moved and (Path(runs) / OWN_FILE).exists() else recorded


@contextlib.contextmanager
def first_opening(address: str) -> Iterator[None]:
    """Hold a lock while a store is opened: two processes that open a new SQLite file at once break it for good.

    The lock ends with the process that holds it, so a killed one leaves nothing behind but an empty file.

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
    """Check within seconds that MLflow can be written at ``address``; leaves nothing behind.

    A server must answer with its version. The folder of an SQLite file (or its nearest existing parent) must be
    writable, and an existing file must be one of SQLite. Other databases are left to MLflow's first call.

    Raises:
        PreflightError: it cannot; the message names the masked address and what to do.
    """
    path = sqlite_path(address)
    if path is not None:
        _check_file(path)
    if not address.startswith(SERVERS):
        return
    # In a daemon thread, because a name look-up cannot be interrupted: one that hangs is left behind.
    problems: list[PreflightError | None] = []
    probe = threading.Thread(target=lambda: problems.append(_server_problem(address)), daemon=True)
    probe.start()
    probe.join(CHECK_TIMEOUT_S)
    problem = problems[0] if problems else _unreachable(address, f"no answer within {CHECK_TIMEOUT_S:.0f} s")
    if problem is not None:
        raise problem


def _check_file(path: Path) -> None:
    existing = next(folder for folder in path.parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"x")
        if path.exists():
            # "r+b", though it only reads: a file without write permission must fail here, not in the middle of a sweep.
            with path.open("r+b") as file:
                head = file.read(15)
            # An empty file is a valid store: SQLite makes it before it first writes.
            if head not in {b"", b"SQLite format 3"}:
                raise PreflightError(
                    f"MLflow store {path}: must be an SQLite file; move it away or set MLFLOW_TRACKING_URI"
                )
    except OSError as error:
        raise _unwritable(path, error) from error


def _server_problem(address: str) -> PreflightError | None:
    # The request that MLflow itself sends: credentials of its environment variables stand before the address's.
    given_user, given_password = credentials_of(address)
    user = os.environ.get("MLFLOW_TRACKING_USERNAME") or given_user
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    secret = {}
    if user:
        password = os.environ.get("MLFLOW_TRACKING_PASSWORD") or given_password
        secret = {"Authorization": basic(user, password)}
    elif token:
        secret = {"Authorization": f"Bearer {token}"}
    try:
        answer = ask(Request(address, "/version", secret_headers=secret), VERSION_TIMEOUT_S, _tls())
    except PreflightError as error:
        return error
    except Unreachable as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return _unreachable(
                address, str(error), "name the file of your authority's certificate in REQUESTS_CA_BUNDLE"
            )
        return _unreachable(address, str(error))
    if answer.is_refusal:
        return _unreachable(
            address, f"refused with {answer.status}", "check its credentials and allowed hosts"
        )
    if answer.status != 200:
        return _unreachable(address, f"/version answered {answer.status}")
    # Any web server may answer 200 with a page of its own; MLflow answers with its version number alone.
    if not re.match(r"\d+\.\d+", answer.body[:64].decode(errors="replace").strip()):
        return _unreachable(address, "an answer of another service")
    return None


CERTIFICATES = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables that name the certificates of a private authority, in the order of their precedence."""


def _tls() -> ssl.SSLContext:
    # MLflow's own variables: the check must accept every server that the client accepts afterwards.
    key = next((key for key in CERTIFICATES if os.environ.get(key)), None)
    path = None if key is None else Path(os.environ[key])
    try:
        is_folder = path is not None and path.is_dir()
        context = ssl.create_default_context(
            cafile=None if is_folder or path is None else str(path), capath=str(path) if is_folder else None
        )
    except OSError as error:
        raise PreflightError(
            f"{key}: must name a file or folder of certificates (PEM), got {path}: {error.strerror or error}"
        ) from error
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in {"true", "1"}:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _unreachable(address: str, reason: str, advice: str = "start it or check the address") -> PreflightError:
    return PreflightError(
        f"MLflow at {masked(address)}: must answer, got: {reason}; {advice}{proxy_hint()},"
        " or unset MLFLOW_TRACKING_URI to use a file in the runs folder"
    )


def _unwritable(path: Path, error: OSError) -> PreflightError:
    reason = error.strerror or str(error)
    return PreflightError(
        f"MLflow at {SQLITE}{path}: its folder must be writable: {reason};"
        " choose another --runs folder or set MLFLOW_TRACKING_URI"
    )
