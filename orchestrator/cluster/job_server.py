"""Ray's job server by plain HTTP: submitting needs neither Ray nor its dashboard on this machine."""

from __future__ import annotations

import base64
import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from orchestrator.cluster.code_package import Package
from orchestrator.errors import PreflightError
from orchestrator.tracking.address import masked, scrubbed

ASK_TIMEOUT_S = 15.0
UPLOAD_TIMEOUT_S = 600.0
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
OWN_TOKEN = Path("~/.ray/auth_token")


class JobExists(Exception):
    """The submission id was used before."""


@dataclass(frozen=True)
class Job:
    """What the job server knows of a job."""

    submission_id: str
    status: str
    exit_code: int | None
    message: str

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class JobServer:
    """The job server of a cluster.

    Args:
        address: ``http(s)://[USER:PASSWORD@]HOST:PORT``.
    Every method raises PreflightError where it does not answer, or refuses; messages hold no credentials.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self.shown = masked(address)

    def check(self) -> None:
        """It answers, as Ray's."""
        try:
            known = "ray_version" in json.loads(self._ask("GET", "/api/version")[1])
        except ValueError:
            known = False
        if not known:
            raise self._problem("what answers there is no Ray job server")

    def upload(self, package: Package) -> str:
        """Store a package unless it is there; its address for a runtime environment."""
        path = f"/api/packages/gcs/{package.file_name}"
        if self._ask("GET", path, passing=(404,))[0] == 404:
            self._ask("PUT", path, package.content, timeout_s=UPLOAD_TIMEOUT_S)
        return f"gcs://{package.file_name}"

    def submit(
        self, submission_id: str, entrypoint: str, environment: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> None:
        """Start a job.

        Raises:
            JobExists: the id was used before.
        """
        body = {
            "entrypoint": entrypoint, "submission_id": submission_id, "runtime_env": dict(environment),
            "metadata": dict(metadata),
        }  # fmt: skip
        status, answer = self._ask("POST", "/api/jobs/", json.dumps(body).encode(), passing=(400, 500))
        if status == 200:
            return
        if self.job(submission_id) is not None:
            raise JobExists
        raise self._problem(f"it refused the job: {_last_line(answer)}")

    def job(self, submission_id: str) -> Job | None:
        """None where there is no such job."""
        status, answer = self._ask("GET", f"/api/jobs/{quote(submission_id)}", passing=(404,))
        if status == 404:
            return None
        told = json.loads(answer)
        return Job(submission_id, told["status"], told.get("driver_exit_code"), told.get("message") or "")

    def log(self, submission_id: str) -> str:
        """Everything that the job has printed so far; empty before it has begun."""
        status, answer = self._ask("GET", f"/api/jobs/{quote(submission_id)}/logs", passing=(404, 500))
        return str(json.loads(answer).get("logs") or "") if status == 200 else ""

    def _ask(
        self, method: str, path: str, body: bytes | None = None, passing: tuple[int, ...] = (),
        timeout_s: float = ASK_TIMEOUT_S,
    ) -> tuple[int, bytes]:  # fmt: skip
        request = self._request(method, path, body)
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return int(answer.status), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                text = error.read()
            if error.code in passing:
                return error.code, text
            if error.code in {401, 403}:
                raise self._problem(
                    f"refused with {error.code}",
                    "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the cluster's token",
                ) from None
            raise self._problem(f"{method} {path} answered {error.code}: {_last_line(text)}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = scrubbed(str(getattr(error, "reason", error)), self._address)
            raise self._problem(reason) from None

    def _request(self, method: str, path: str, body: bytes | None) -> urllib.request.Request:
        parts = urlsplit(self._address)
        host = parts.netloc.rpartition("@")[2]
        url = urlunsplit((parts.scheme, host, f"{parts.path.rstrip('/')}{path}", "", ""))
        kind = {"Content-Type": "application/json" if method == "POST" else "application/octet-stream"}
        request = urllib.request.Request(url, data=body, method=method, headers=kind if body else {})
        bearer, token = "Authorization", auth_token(os.environ)
        if parts.username:  # a proxy's; Ray takes its token from a header of its own then
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            request.add_unredirected_header(
                "Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}"
            )
            bearer = "X-Ray-Authorization"
        if token:
            request.add_unredirected_header(bearer, f"Bearer {token}")
        return request

    def _problem(self, reason: str, advice: str = "start it with ray[default] on the head") -> PreflightError:
        proxied = any(
            os.environ.get(name) for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")
        )
        hint = ", set NO_PROXY for its host" if proxied else ""
        return PreflightError(
            f"Ray job server at {self.shown}: must answer, got: {reason}; {advice}, or check the address{hint}"
        )


def auth_token(environ: Mapping[str, str]) -> str:
    """The cluster's token, looked for where Ray does; empty where there is none or RAY_AUTH_MODE is not token.

    Raises:
        PreflightError: the file that RAY_AUTH_TOKEN_PATH names cannot be read.
    """
    if environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return ""
    if environ.get("RAY_AUTH_TOKEN"):
        return environ["RAY_AUTH_TOKEN"].strip()
    named = environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else OWN_TOKEN.expanduser()
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        if named is None:
            return ""
        reason = getattr(error, "strerror", None) or "not a text"
        raise PreflightError(f"RAY_AUTH_TOKEN_PATH: {named} must be readable: {reason}") from None


def _last_line(text: bytes) -> str:
    lines = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"
