"""Address of the cluster that a driver joins, and that of its job server."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from orchestrator.cluster.code_package import Package
from orchestrator.credentials import masked
from orchestrator.errors import PreflightError, UsageError
from orchestrator.http_client import SERVERS

HEAD = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
OWN_JOB_SERVER = "http://127.0.0.1:8265"
REACH_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Cluster:
    """Where a sweep runs: resolved once, and handed on.

    Attributes:
        address: ``HOST:PORT`` of a running cluster's head, or ``auto``; empty: a private Ray on this machine.
        package: code that the nodes of a running cluster are sent; None: they use their own, or the submitted job's.
    """

    address: str = ""
    package: Package | None = None

    @property
    def is_private(self) -> bool:
        """True for a Ray of our own, which ends with the driver."""
        return not self.address

    @property
    def shown(self) -> str:
        """The address without credentials; empty for a private one."""
        return masked(self.address)

    def __str__(self) -> str:
        return "on this machine" if self.is_private else f"on the Ray cluster at {self.shown}"


def driver_address(given: str | None, environ: Mapping[str, str]) -> str:
    """The cluster that a driver joins: ``--address``, else RAY_ADDRESS; empty for a private one on this machine.

    Args:
        given: value of ``--address``; None where it was not given.
        environ: RAY_ADDRESS is read.
    Raises:
        UsageError: not of the form ``HOST:PORT`` (of the head), ``auto`` or ``local``.
    """
    what = "--address" if given is not None else "RAY_ADDRESS"
    address = (environ.get("RAY_ADDRESS", "") if given is None else given).strip()
    if address in {"", "local"} and (given is None or given == "local"):
        return ""
    if address == "auto" or HEAD.fullmatch(address):
        return address
    if address.startswith("ray://"):
        raise UsageError(
            f"{what}: must be the head's HOST:6379, got {masked(address)}: Ray Client would run the search where the "
            "sweep's records are not; or let the driver run there: --submit --address http://HOST:8265"
        )
    if address.startswith(SERVERS):
        raise UsageError(
            f"{what}: must be the head's HOST:6379, got the job server {masked(address)}; add --submit to run the "
            "driver there"
        )
    raise UsageError(f"{what}: must be HOST:PORT of the cluster's head, got {masked(address)!r}")


def job_server(given: str | None, environ: Mapping[str, str]) -> str:
    """The job server: ``--address``, else RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or the one on this machine.

    Returns:
        ``http(s)://...`` with its credentials: show :func:`masked` only.
    Raises:
        UsageError: not an ``http(s)://`` address.
    """
    what, address = "--address", given
    if address is None:
        names = [name for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS") if environ.get(name, "").strip()]
        what = names[0] if names else ""
        address = environ[what] if names else OWN_JOB_SERVER
    address = address.strip().rstrip("/")
    try:
        usable = address.startswith(SERVERS) and bool(urlsplit(address).hostname)
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(
            f"{what}: with --submit it must be the job server, http://HOST:8265, got {masked(address)!r}"
        )
    return address


def on_loopback_only(address: str) -> bool:
    """True if a cluster listens on loopback alone, as under Ray's switch for one machine.

    Ray takes a loopback address for this machine's outward one, where such a cluster does not answer: a driver that
    joins it needs the same switch.
    """
    found = HEAD.fullmatch(address)
    if found is None or found[1] not in {"localhost", "127.0.0.1", "[::1]"}:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(
                ("192.0.2.1", 9)
            )  # sends nothing: it asks which of our addresses a packet would leave by
            outward = probe.getsockname()[0]
        except OSError:
            return True
    try:
        with socket.create_connection((outward, int(found[2])), timeout=REACH_TIMEOUT_S):
            return False
    except OSError:
        return True


def check_reachable(address: str) -> None:
    """Check that something answers at the head's port; Ray itself would try for minutes.

    Raises:
        PreflightError: nothing does within three seconds.
    """
    found = HEAD.fullmatch(address)
    if found is None:
        return
    try:
        port = int(found[2])
        with socket.create_connection((found[1].strip("[]"), port), timeout=REACH_TIMEOUT_S):
            pass
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PreflightError(
            f"Ray cluster at {masked(address)}: must answer, got: {reason}; start it, or check the address"
        ) from error
