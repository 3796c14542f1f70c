"""Failures of an object store name the step that failed, the object, and no secret."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import PreflightError
from orchestrator.records.object_store import ObjectStore, s3_options, within
from orchestrator.records.synced_folder import SyncedStore

STEPS = {
    "write": ("open_output_stream",),
    "read": ("open_input_stream",),
    "list": ("get_file_info",),
    "delete": ("delete_file", "delete_dir"),
}
"""Step as messages name it -> methods of pyarrow's file system."""


class FailingStore:
    """pyarrow's file system: the methods of one step fail, reads return ``content``, nothing is listed."""

    def __init__(self, failing: str | None, content: bytes) -> None:
        self._refused, self._content = STEPS.get(failing or "", ()), content

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*_: Any) -> Any:
            if name in self._refused:
                raise OSError("AccessDenied for secretkey")
            streams = {"open_output_stream": io.BytesIO(), "open_input_stream": io.BytesIO(self._content)}
            return streams.get(name, [])

        return call


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ObjectStore]:
    """Makes a store at which one step fails."""

    def make(failing: str | None, content: bytes = b"x") -> ObjectStore:
        monkeypatch.setattr("pyarrow.fs.S3FileSystem", lambda **_: FailingStore(failing, content))
        return ObjectStore("s3://key:secretkey@bucket/runs", {})

    return make


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(PreflightError) as refused:
        call()
    return str(refused.value)


@pytest.mark.parametrize("failing", STEPS)
def test_the_step_that_failed_is_named_and_no_other(
    store: Callable[..., ObjectStore], failing: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    bad = store(failing)
    calls: dict[str, list[Callable[[], object]]] = {
        "write": [lambda: bad.put("s/a", b""), lambda: bad.put_file(tmp_path / "file", "s/a")],
        "read": [
            lambda: bad.get("s/a"), lambda: bad.fetch("s/a", tmp_path / "to"),
            lambda: bad.fetch_all(["s/a"], tmp_path),
        ],
        "list": [lambda: bad.objects("s/a"), lambda: bad.folders("s/a")],
        "delete": [lambda: bad.delete("s/a"), lambda: bad.delete_tree("s/a")],
    }  # fmt: skip
    for step, those in calls.items():
        for call in those:
            if step != failing:
                call()
                continue
            message = refusal(call)
            assert message.startswith("--runs s3://bucket/runs: must be ")
            assert f"got: cannot {step} s/a: AccessDenied" in message
            assert message.count("cannot ") == 1
            assert "secretkey" not in message
    assert (tmp_path / "to").exists() == (failing != "read")


@pytest.mark.parametrize("failing", ["write", "read", "delete"])
def test_a_check_names_the_step_that_failed(store: Callable[..., ObjectStore], failing: str) -> None:
    message = refusal(lambda: store(failing).check("s"))
    assert f"got: cannot {failing} s/.probe-" in message
    assert message.count("cannot ") == 1
    assert "secretkey" not in message


def test_a_check_compares_what_it_reads(store: Callable[..., ObjectStore]) -> None:
    store(None).check("s")
    assert "reads back with another content" in refusal(lambda: store(None, b"y").check("s"))


def test_the_runs_folder_itself_has_a_name_in_messages_too(store: Callable[..., ObjectStore]) -> None:
    assert "got: cannot list it: " in refusal(lambda: SyncedStore(store("list")).sweep_names())


def test_a_scheme_that_is_none_is_refused_in_our_words() -> None:
    for store in (
        ObjectStore("s3://bucket/runs?scheme=ftp", {}),
        ObjectStore("s3://bucket/runs", {"AWS_ENDPOINT_URL": "ftp://host"}),
    ):
        assert "got: cannot read s/a: Invalid S3 connection scheme 'ftp'" in refusal(
            lambda s=store: s.get("s/a")
        )
        assert "got: cannot connect: Invalid" in refusal(lambda s=store: s.check("s"))
        assert "got: cannot connect to it: Invalid" in refusal(store.for_workers)


def test_a_call_that_takes_too_long_is_given_up() -> None:
    ended = threading.Event()

    def hang() -> None:
        ended.wait(60)

    assert within(0.01, hang) == "no answer within 0 s"
    ended.set()
    assert within(60, lambda: None) is None
    assert within(60, lambda: "refused") == "refused"


OWN = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "t"}


@pytest.mark.parametrize(
    ("user", "password", "query", "environ", "expected"),
    [
        (None, None, {}, {}, {"region": "us-east-1", "scheme": "https"}),
        (None, None, {}, {"AWS_DEFAULT_REGION": "x"}, {"region": "x", "scheme": "https"}),
        (None, None, {}, {"AWS_DEFAULT_REGION": "x", "AWS_REGION": "y"}, {"region": "y", "scheme": "https"}),
        (None, None, {"region": "z"}, {"AWS_REGION": "y"}, {"region": "z", "scheme": "https"}),
        (
            None, None, {}, {"AWS_ENDPOINT_URL": "http://h:1/"},
            {"region": "us-east-1", "scheme": "http", "endpoint_override": "h:1"},
        ),
        (
            None, None, {}, {"AWS_ENDPOINT_URL": "http://h:1", "AWS_ENDPOINT_URL_S3": "https://s:2"},
            {"region": "us-east-1", "scheme": "https", "endpoint_override": "s:2"},
        ),
        (
            None, None, {"endpoint_override": "q:3", "scheme": "http"}, {"AWS_ENDPOINT_URL": "https://h:1"},
            {"region": "us-east-1", "scheme": "http", "endpoint_override": "q:3"},
        ),
        (
            None, None, {"endpoint_override": "http://q:3"}, {},
            {"region": "us-east-1", "scheme": "http", "endpoint_override": "q:3"},
        ),
        (
            None, None, {}, OWN,
            {"region": "us-east-1", "scheme": "https", "access_key": "a", "secret_key": "b", "session_token": "t"},
        ),
        (None, None, {}, {"AWS_ACCESS_KEY_ID": "a"}, {"region": "us-east-1", "scheme": "https"}),
        # The token of the environment does not belong to the keys of the address, which are percent-encoded.
        (
            "k%2F", "s%40", {}, OWN,
            {"region": "us-east-1", "scheme": "https", "access_key": "k/", "secret_key": "s@"},
        ),
    ],
)  # fmt: skip
def test_the_address_counts_before_the_environment(
    user: str | None,
    password: str | None,
    query: dict[str, str],
    environ: dict[str, str],
    expected: dict[str, str],
) -> None:
    assert s3_options(user, password, query, environ) == expected


@pytest.mark.parametrize(
    ("address", "root", "full"),
    [
        ("s3://bucket", "bucket", "bucket/s/a"),
        ("s3://bucket/", "bucket", "bucket/s/a"),
        ("s3://bucket/deep/er/?region=x", "bucket/deep/er", "bucket/deep/er/s/a"),
        ("s3://k:s@bucket/x", "bucket/x", "bucket/x/s/a"),
    ],
)
def test_objects_lie_below_bucket_and_prefix(address: str, root: str, full: str) -> None:
    objects = ObjectStore(address, {})
    assert (objects.root, objects.full("s/a"), objects.full("")) == (root, full, root)
