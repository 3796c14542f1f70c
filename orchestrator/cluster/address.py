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
    """Ray cluster of a sweep, resolved once and handed on.

    Attributes:
        address: ``HOST:PORT`` of a running cluster's head, or ``auto``; empty for a private Ray on this machine.
        package: code that is sent to the nodes of a running cluster. None where they use their own, or the submitted
            job's.
    """

    address: str = ""
    package: Package | None = None

    @property
    def is_private(self) -> bool:
        """True if the sweep has a Ray of its own, which ends with the driver."""
        return not self.address

    @property
    def shown(self) -> str:
        """Address without credentials; empty for a private Ray."""
        return masked(self.address)

    def __str__(self) -> str:
        return "on this machine" if self.is_private else f"on the Ray cluster at {self.shown}"


def driver_address(given: str | None, environ: Mapping[str, str]) -> str:
    """Address of the cluster that a driver joins: ``--address``, else RAY_ADDRESS.

    Args:
        given: value of ``--address``; None where it was not given.
        environ: environment, of which RAY_ADDRESS is read.
    Returns:
        ``HOST:PORT`` or ``auto``; empty for a private Ray on this machine.
    Raises:
        UsageError: the address is not of the form ``HOST:PORT`` (of the head), ``auto`` or ``local``.
    """
    source = "--address" if given is not None else "RAY_ADDRESS"
    address = (environ.get("RAY_ADDRESS", "") if given is None else given).strip()
    # An empty RAY_ADDRESS is as good as none; an empty --address may be a shell variable that is not set: refused.
    if address == "local" or (not address and given is None):
        return ""
    if address == "auto" or HEAD.fullmatch(address):
        return address
    if address.startswith("ray://"):
        raise UsageError(
            f"{source}: must be the head's HOST:6379, got {masked(address)}: Ray Client would run the search where the "
            "sweep's records are not; or let the driver run there: --submit --address http://HOST:8265"
        )
    # Ray's own job commands read the job server from RAY_ADDRESS, so that it may hold one.
    if address.startswith(SERVERS):
        raise UsageError(
            f"{source}: must be the head's HOST:6379, got the job server {masked(address)}; add --submit to run the "
            "driver there"
        )
    raise UsageError(
        f"{source}: must be HOST:PORT of the cluster's head, auto or local, got {masked(address)!r}; correct it, or "
        "leave it out to run on this machine"
    )


def job_server(given: str | None, environ: Mapping[str, str]) -> str:
    """Address of the job server: ``--address``, else RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or that of this machine.

    Args:
        given: value of ``--address``; None where it was not given.
        environ: environment, of which the two variables are read.
    Returns:
        ``http(s)://...`` with its credentials: show :func:`masked` only.
    Raises:
        UsageError: the address is not an ``http(s)://`` one.
    """
    source, address = "--address", given
    if address is None:
        # In the order in which Ray's own job commands read them.
        names = [name for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS") if environ.get(name, "").strip()]
        source = names[0] if names else ""
        address = environ[source] if names else OWN_JOB_SERVER
    address = address.strip().rstrip("/")
    # urlsplit raises ValueError for an unbalanced bracket, as in ``http://[``.
    try:
        usable = address.startswith(SERVERS) and bool(urlsplit(address).hostname)
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(
            f"{source}: with --submit it must be the job server, http://HOST:8265, got {masked(address)!r}"
        )
    return address


def on_loopback_only(address: str) -> bool:
    """True if a cluster listens on loopback only, as under Ray's switch for one machine.

    Ray takes a loopback address for this machine's outward one, where such a cluster does not answer: a driver that
    joins it needs the same switch.
    """
    match = HEAD.fullmatch(address)
    if match is None or match[1] not in {"localhost", "127.0.0.1", "[::1]"}:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket sends nothing: it picks the address that a packet would leave by.
            probe.connect(("192.0.2.1", 9))
            outward = probe.getsockname()[0]
        except OSError:
            # There is no route outward, so there is only loopback to listen on.
            return True
    try:
        with socket.create_connection((outward, int(match[2])), timeout=REACH_TIMEOUT_S):
            return False
    except OSError:
        return True


def check_reachable(address: str) -> None:
    """Check that something answers at the head's port; Ray itself would try for minutes.

    Args:
        address: of the cluster; ``auto`` and a private Ray have nothing to be checked.
    Raises:
        PreflightError: nothing answers within three seconds.
    """
    match = HEAD.fullmatch(address)
    if match is None:
        return
    # A port above 65535 is an OverflowError; a time-out has no strerror.
    try:
        port = int(match[2])
        with socket.create_connection((match[1].strip("[]"), port), timeout=REACH_TIMEOUT_S):
            pass
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PreflightError(
            f"Ray cluster at {masked(address)}: must answer, got: {reason}; start it, or check the address"
        ) from error
