"""One HTTP request, as every probe of a server makes it: within seconds, with credentials in headers of their own."""

from __future__ import annotations

import base64
import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit, urlunsplit

from orchestrator.credentials import scrubbed

SERVERS = ("http://", "https://")
REFUSED = (401, 403)


class Unreachable(Exception):
    """No answer came; the message says why, without credentials."""


@dataclass(frozen=True)
class Answer:
    """Answer of a server, also one that is an error.

    Attributes:
        status: of HTTP.
        body: as it came.
    """

    status: int
    body: bytes

    @property
    def is_refusal(self) -> bool:
        """True if the server wants other credentials."""
        return self.status in REFUSED

    @property
    def last_line(self) -> str:
        """Last line of its text, where a traceback has the error."""
        lines = [line for line in self.body.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else "no reason given"


@dataclass(frozen=True)
class Request:
    """A request below a server's address.

    Attributes:
        address: ``http(s)://[USER:PASSWORD@]HOST[:PORT][/PREFIX]``; its credentials are not sent by themselves.
        path: below the address.
        method: of HTTP.
        body: sent with it; None: nothing is.
        headers: of the body.
        secret_headers: not repeated after a redirect.
    """

    address: str
    path: str
    method: str = "GET"
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    secret_headers: Mapping[str, str] = field(default_factory=dict)


def ask(request: Request, timeout_s: float, tls: ssl.SSLContext | None = None) -> Answer:
    """Send a request.

    Args:
        request: address, method, headers and body.
        timeout_s: of the connection and of every read.
        tls: settings of https; None: the system's own.
    Raises:
        Unreachable: nothing answers, or the answer is no HTTP.
    """
    try:
        return _answer(_prepared(request), timeout_s, tls)
    except (OSError, http.client.HTTPException, ValueError) as error:
        # ValueError: the parser refuses a bracket without its other half, and codecs refuse host names that it let
        # through. The cause may quote credentials.
        raise Unreachable(scrubbed(str(getattr(error, "reason", error)), request.address)) from None


def _prepared(request: Request) -> urllib.request.Request:
    """The request as urllib wants it."""
    parts = urlsplit(request.address)
    # urllib takes USER:PASSWORD@ for a part of the host's name.
    host = parts.netloc.rpartition("@")[2]
    url = urlunsplit((parts.scheme, host, f"{parts.path.rstrip('/')}{request.path}", "", ""))
    prepared = urllib.request.Request(
        url, data=request.body, method=request.method, headers=dict(request.headers)
    )
    # A redirect may lead to another host, which must not see the credentials.
    for name, value in request.secret_headers.items():
        prepared.add_unredirected_header(name, value)
    return prepared


def _answer(prepared: urllib.request.Request, timeout_s: float, tls: ssl.SSLContext | None) -> Answer:
    """Answer of the server, also one that is an error."""
    try:
        with urllib.request.urlopen(prepared, timeout=timeout_s, context=tls) as answer:
            return Answer(int(answer.status), answer.read())
    # urllib raises an answer of 400 and more; to a probe it is an answer.
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read())


def credentials_of(address: str) -> tuple[str, str]:
    """User and password of an address, decoded; empty where it has none."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "", ""  # no address at all, which :func:`ask` reports
    return unquote(parts.username or ""), unquote(parts.password or "")


def basic(user: str, password: str) -> str:
    """Value of an Authorization header."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def proxy_hint() -> str:
    """Advice where a proxy is set: one that does not know the server makes a local one look refused."""
    variables = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")
    return ", set NO_PROXY for its host" if any(os.environ.get(name) for name in variables) else ""
