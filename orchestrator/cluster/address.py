"""Where the cluster is: the address a driver joins it at, and that of its job server."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from orchestrator.errors import PreflightError, UsageError
from orchestrator.tracking.address import masked

HEAD = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
SERVERS = ("http://", "https://")
OWN_JOB_SERVER = "http://127.0.0.1:8265"
REACH_TIMEOUT_S = 3.0


def driver_address(given: str | None, environ: Mapping[str, str]) -> str:
    """The cluster that a driver joins: ``--address``, else RAY_ADDRESS; empty for a private one on this machine.

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
    """Whether a cluster listens on loopback alone, as under Ray's switch for one machine.

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


@contextlib.contextmanager
def on_cluster(address: str) -> Iterator[None]:
    """RAY_ADDRESS for as long as the block lasts: Ray and what it starts read it; empty: a private cluster."""
    before = os.environ.pop("RAY_ADDRESS", None)
    if address:
        os.environ["RAY_ADDRESS"] = address
    try:
        yield
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        if before is not None:
            os.environ["RAY_ADDRESS"] = before


def check_reachable(address: str) -> None:
    """Something answers at the head's port; Ray itself would try for minutes.

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
