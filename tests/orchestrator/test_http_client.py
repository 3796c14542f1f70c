"""One HTTP request, as every probe makes it; nothing here opens a socket."""

from __future__ import annotations

import http.client
import io
import urllib.error
import urllib.request
from email.message import Message
from typing import Any

import pytest

from orchestrator.http_client import Answer, Request, Unreachable, ask, basic, credentials_of, proxy_hint


class Reply(io.BytesIO):
    """An answer of a server, or one that ends in an error while it is read."""

    status = 200

    def __init__(self, content: bytes, error: Exception | None = None) -> None:
        super().__init__(content)
        self._error = error

    def read(self, size: int | None = -1) -> bytes:
        if self._error is not None:
            raise self._error
        return super().read(size)


class Network:
    """Stands for urllib: notes the request, and answers with a reply or an error."""

    def __init__(self) -> None:
        self.reply: Reply | Exception = Reply(b"fine")
        self.sent: urllib.request.Request
        self.timeout_s = 0.0

    def urlopen(self, request: urllib.request.Request, timeout: float, context: Any) -> Reply:
        self.sent, self.timeout_s = request, timeout
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    made = Network()
    monkeypatch.setattr(urllib.request, "urlopen", made.urlopen)
    return made


def refusal(status: int, body: Reply) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("http://host", status, "no", Message(), body)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://host:5000", "http://host:5000/version"),
        ("https://user:p%40ss@host/prefix/", "https://host/prefix/version"),
        ("http://a@b@host/x?token=1#part", "http://host/x/version"),
        ("http://[::1]:80", "http://[::1]:80/version"),
    ],
)
def test_a_path_is_appended_and_credentials_stay_behind(network: Network, address: str, url: str) -> None:
    assert ask(Request(address, "/version"), 3.0) == Answer(200, b"fine")
    assert (network.sent.full_url, network.sent.get_method(), network.timeout_s) == (url, "GET", 3.0)
    assert network.sent.data is None


def test_secrets_are_not_repeated_after_a_redirect(network: Network) -> None:
    headers, secret = {"Content-type": "text/plain"}, {"Authorization": basic("user", "päss")}
    ask(Request("http://host", "/jobs", "POST", b"body", headers, secret), 1.0)
    sent = network.sent
    assert (sent.get_method(), sent.data) == ("POST", b"body")
    assert sent.headers == headers
    assert sent.unredirected_hdrs == {"Authorization": "Basic dXNlcjpww6Rzcw=="}


@pytest.mark.parametrize(("status", "refuses"), [(401, True), (403, True), (404, False), (500, False)])
def test_an_error_of_the_server_is_an_answer(network: Network, status: int, refuses: bool) -> None:
    network.reply = refusal(status, Reply(b"Traceback\n  why\n\n"))
    answer = ask(Request("http://host", "/"), 1.0)
    assert (answer.status, answer.is_refusal, answer.last_line) == (status, refuses, "why")


@pytest.mark.parametrize(
    ("body", "line"), [(b"", "no reason given"), (b" \n\n", "no reason given"), (b"a\xff", "a\ufffd")]
)
def test_the_last_line_of_any_body(body: bytes, line: str) -> None:
    assert Answer(500, body).last_line == line


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (urllib.error.URLError(ConnectionRefusedError(111, "Connection refused")), "Connection refused"),
        (TimeoutError("timed out"), "timed out"),
        (http.client.BadStatusLine("hello"), "hello"),
        (UnicodeError("label too long"), "label too long"),
        (OSError("cannot reach http://user:secret-word@host/x"), "cannot reach http://host/x"),
    ],
)
def test_no_answer_is_one_error_without_credentials(network: Network, error: Exception, says: str) -> None:
    network.reply = error
    with pytest.raises(Unreachable, match=says) as caught:
        ask(Request("http://user:secret-word@host/x", "/"), 1.0)
    assert "secret-word" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_an_answer_that_is_cut_off_is_none(network: Network) -> None:
    network.reply = Reply(b"", TimeoutError("timed out"))
    with pytest.raises(Unreachable, match="timed out"):
        ask(Request("http://host", "/"), 1.0)


def test_an_error_that_is_cut_off_is_no_answer_either(network: Network) -> None:
    network.reply = refusal(502, Reply(b"", http.client.IncompleteRead(b"", 100)))
    with pytest.raises(Unreachable):
        ask(Request("http://host", "/"), 1.0)


def test_an_address_that_is_none_is_unreachable(network: Network) -> None:
    with pytest.raises(Unreachable):
        ask(Request("http://[::1", "/version"), 1.0)


def test_credentials_are_read_decoded() -> None:
    assert credentials_of("https://us%40er:p%2Fw%3A@host:1/x") == ("us@er", "p/w:")
    assert credentials_of("https://user@host") == ("user", "")
    assert credentials_of("https://host") == credentials_of("https://user@[::1") == ("", "")


def test_a_proxy_is_hinted_at_where_one_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert proxy_hint() == ""
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert proxy_hint() == ", set NO_PROXY for its host"
