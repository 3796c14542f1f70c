"""Ray's job server by plain HTTP: submitting needs neither Ray nor its dashboard on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from orchestrator.cluster.code_package import Package
from orchestrator.credentials import masked
from orchestrator.errors import PreflightError
from orchestrator.http_client import Answer, Request, Unreachable, ask, basic, credentials_of, proxy_hint

ASK_TIMEOUT_S = 15.0
UPLOAD_TIMEOUT_S = 600.0
"""A package may hold hundreds of megabytes."""

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
OWN_TOKEN = Path("~/.ray/auth_token")


class JobExists(Exception):
    """Refusal of a submission id that was used before."""


@dataclass(frozen=True)
class Job:
    """State of a job on the job server.

    Attributes:
        submission_id: of the job.
        status: in Ray's words (``PENDING``, ``RUNNING``, ``SUCCEEDED``, ...).
        exit_code: of the driver; None while it runs, or where it never started.
        message: Ray's explanation of the status.
    """

    submission_id: str
    status: str
    exit_code: int | None
    message: str

    @property
    def ended(self) -> bool:
        """True if the job does not run any more."""
        return self.status in ENDED


class JobServer:
    """Client of a cluster's job server.

    Every method raises PreflightError where the server does not answer or refuses. Messages hold no credentials.

    Args:
        address: ``http(s)://[USER:PASSWORD@]HOST:PORT``.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self.shown = masked(address)

    def check(self) -> None:
        """Check that a Ray job server answers."""
        # ValueError: whatever else may answer on that port need not speak JSON.
        try:
            known = "ray_version" in json.loads(self._ask("GET", "/api/version").body)
        except ValueError:
            known = False
        if not known:
            raise self._problem("an answer that is not a Ray job server's")

    def upload(self, package: Package) -> str:
        """Store a package unless it is there, and return its address for a runtime environment."""
        # The name is the digest: a package of that name holds the same code.
        path = f"/api/packages/gcs/{package.file_name}"
        if self._ask("GET", path, passing=(404,)).status == 404:
            self._ask("PUT", path, package.content, timeout_s=UPLOAD_TIMEOUT_S)
        return f"gcs://{package.file_name}"

    def submit(
        self, submission_id: str, entrypoint: str, environment: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> None:
        """Start a job.

        Args:
            submission_id: id that was not used before.
            entrypoint: command of the job.
            environment: Ray's runtime environment.
            metadata: facts that the dashboard shows beside the job.
        Raises:
            JobExists: the id was used before.
        """
        body = {
            "entrypoint": entrypoint, "submission_id": submission_id, "runtime_env": dict(environment),
            "metadata": dict(metadata),
        }  # fmt: skip
        answer = self._ask("POST", "/api/jobs/", json.dumps(body).encode(), passing=(400, 500))
        if answer.status == 200:
            return
        # Ray refuses a used id with the statuses of any other failure: whether the job is there tells them apart.
        if self.job(submission_id) is not None:
            raise JobExists
        raise self._problem(f"a refusal of the job: {answer.last_line}")

    def job(self, submission_id: str) -> Job | None:
        """State of a job; None where there is no such job."""
        answer = self._ask("GET", f"/api/jobs/{quote(submission_id)}", passing=(404,))
        if answer.status == 404:
            return None
        known = json.loads(answer.body)
        return Job(submission_id, known["status"], known.get("driver_exit_code"), known.get("message") or "")

    def log(self, submission_id: str) -> str:
        """Everything that a job has printed so far; empty before it has begun."""
        # Ray answers 500 where it cannot read the log, as before there is one; the next poll asks again.
        answer = self._ask("GET", f"/api/jobs/{quote(submission_id)}/logs", passing=(404, 500))
        return str(json.loads(answer.body).get("logs") or "") if answer.status == 200 else ""

    def _ask(
        self, method: str, path: str, body: bytes | None = None, passing: tuple[int, ...] = (),
        timeout_s: float = ASK_TIMEOUT_S,
    ) -> Answer:  # fmt: skip
        """Send a request; raise for any error whose status is not ``passing``."""
        kind = "application/json" if method == "POST" else "application/octet-stream"
        user, password = credentials_of(self._address)
        bearer, token, secret = "Authorization", auth_token(os.environ), {}
        # User and password are a proxy's, and take the usual header. Ray then reads its token from a header of its own.
        if user:
            secret["Authorization"] = basic(user, password)
            bearer = "X-Ray-Authorization"
        if token:
            secret[bearer] = f"Bearer {token}"
        request = Request(
            self._address, path, method, body, {"Content-Type": kind} if body else {}, secret_headers=secret
        )
        try:
            answer = ask(request, timeout_s)
        except Unreachable as error:
            # Without the cause, whose text may hold the address with its credentials.
            raise self._problem(str(error)) from None
        if answer.status < 400 or answer.status in passing:
            return answer
        if answer.is_refusal:
            raise self._problem(
                f"refused with {answer.status}",  # whoever answers is up, so the usual advice would mislead
                "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the cluster's token",
            )
        raise self._problem(f"status {answer.status} for {method} {path}: {answer.last_line}")

    def _problem(self, reason: str, advice: str = "start it with ray[default] on the head") -> PreflightError:
        return PreflightError(
            f"Ray job server at {self.shown}: must answer, got: {reason}; {advice}, or check the address{proxy_hint()}"
        )


def auth_token(environ: Mapping[str, str]) -> str:
    """Token of the cluster, read from where Ray reads it.

    Args:
        environ: environment, of which the ``RAY_AUTH_*`` variables are read.
    Returns:
        The token; empty where there is none, or RAY_AUTH_MODE is not ``token``.
    Raises:
        PreflightError: the file that RAY_AUTH_TOKEN_PATH names cannot be read.
    """
    # Ray's default is ``token``.
    if environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return ""
    if environ.get("RAY_AUTH_TOKEN"):
        return environ["RAY_AUTH_TOKEN"].strip()
    named = environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else OWN_TOKEN.expanduser()
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        # The file in the home folder need not exist: the cluster may have no token.
        if named is None:
            return ""
        reason = getattr(error, "strerror", None) or "not a text"
        raise PreflightError(
            f"RAY_AUTH_TOKEN_PATH: {named} must be readable, got: {reason}; set it to the file of the cluster's token"
        ) from None
