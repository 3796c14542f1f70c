"""An object store, ``s3://bucket/prefix``, through pyarrow.

An object is whole or not there, so the order of writes has the same meaning as on a disk.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from orchestrator.credentials import masked, scrubbed
from orchestrator.errors import PreflightError, UsageError
from selmix.files import written_aside

CHECK_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S = 5.0, 20.0
ATTEMPTS = 3
MAX_CONCURRENT = 16
QUERY = ("scheme", "region", "endpoint_override")
# ValueError: what pyarrow raises of a scheme, region or endpoint that is none, at the first use of the address.
REFUSALS = (OSError, ValueError)
# Weights are copied in pieces of 4 MiB, never held in memory as a whole.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Stored:
    """One object: its path below the address, and the time of its write, in seconds of the store's clock."""

    path: str
    time_s: float


class ObjectStore:
    """Objects below one address; paths are relative to it, with ``/``.

    Args:
        address: ``s3://[KEY:SECRET@]bucket[/prefix][?region=&scheme=&endpoint_override=]``.
        environ: environment variables (AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, ...) for the parts that the
            address leaves out; secrets belong here.
    Raises:
        UsageError: it is no such address.
    """

    def __init__(self, address: str, environ: Mapping[str, str]) -> None:
        self.given = address  # may hold credentials: never shown
        self.shown = masked(address)
        parts = urlsplit(address)
        place = parts.netloc.rpartition("@")[2]
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        # A misspelt key would be ignored, and another server be written to.
        unknown = sorted(set(query) - set(QUERY))
        if parts.scheme != "s3" or not place or unknown:
            problem = f"unknown {', '.join(unknown)}" if unknown else "no bucket"
            raise UsageError(
                f"--runs: must be FOLDER or s3://bucket/prefix with {', '.join(QUERY)} as query, got {self.shown!r} "
                f"({problem})"
            )
        self.root = f"{place}/{parts.path.strip('/')}".rstrip("/")
        self._options = s3_options(parts.username, parts.password, query, environ)
        self._lock = threading.Lock()
        self._filesystem: Any = None

    @property
    def filesystem(self) -> Any:
        """pyarrow's file system, with the credentials in it: for this process only."""
        # Threads share the store: the lease's, the watch's, and those of `fetch_all`.
        with self._lock:
            if self._filesystem is None:
                self._filesystem = self._connect(ATTEMPTS)
            return self._filesystem

    def for_workers(self) -> Any:
        """The same without credentials, to be pickled: workers have their own, in their environment.

        Ray and Tune write what they pickle to logs and snapshots, on disks and in the bucket itself.

        Raises:
            UsageError: the address holds credentials, which workers would not get.
            PreflightError: the address has parts that pyarrow refuses.
        """
        if self.given != self.shown:
            raise UsageError(
                f"--runs {self.shown}: must be without credentials for a sweep to run, got some in the address: set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead, on the nodes of a cluster too"
            )
        secret = {"access_key", "secret_key", "session_token"}
        with self._naming("connect to", ""):
            return self._connect(ATTEMPTS, {key: v for key, v in self._options.items() if key not in secret})

    def _connect(self, attempts: int, options: Mapping[str, Any] | None = None) -> Any:
        from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

        # allow_delayed_open: a small object is one request, so it is whole or not there.
        return S3FileSystem(
            **(self._options if options is None else options),
            allow_delayed_open=True, connect_timeout=CONNECT_TIMEOUT_S,
            request_timeout=REQUEST_TIMEOUT_S, retry_strategy=AwsStandardS3RetryStrategy(max_attempts=attempts),
        )  # fmt: skip

    def full(self, path: str) -> str:
        """``bucket/prefix/path``, as pyarrow and Ray want it."""
        return f"{self.root}/{path}".rstrip("/")

    def put(self, path: str, content: bytes) -> None:
        """Write an object whole.

        Raises:
            PreflightError: the store refuses, or does not answer (as in every method below).
        """
        with self._naming("write", path), self.filesystem.open_output_stream(self.full(path)) as stream:
            stream.write(content)

    def put_file(self, local: Path, path: str) -> None:
        """Write a local file as an object."""
        with (
            self._naming("write", path),
            local.open("rb") as file,
            self.filesystem.open_output_stream(self.full(path)) as stream,
        ):
            while block := file.read(_BLOCK):
                stream.write(block)

    def get(self, path: str) -> bytes | None:
        """The content of an object; None where there is none."""
        try:
            with self._naming("read", path), self.filesystem.open_input_stream(self.full(path)) as stream:
                content: bytes = stream.read()
                return content
        except FileNotFoundError:
            return None

    def fetch(self, path: str, local: Path) -> bool:
        """Copy an object to a local file, whole or not at all; False where there is none."""
        try:
            with (
                self._naming("read", path),
                self.filesystem.open_input_stream(self.full(path)) as stream,
                written_aside(local) as aside,
                aside.open("wb") as file,
            ):
                while block := stream.read(_BLOCK):
                    file.write(block)
        except FileNotFoundError:
            return False
        return True

    def fetch_all(self, paths: Sequence[str], folder: Path) -> None:
        """Copy objects below a local folder, several at a time."""
        with ThreadPoolExecutor(MAX_CONCURRENT) as pool:
            list(pool.map(lambda path: self.fetch(path, folder / path), paths))

    def objects(self, path: str) -> list[Stored]:
        """Every object below a path, by path; [] where there is none."""
        from pyarrow.fs import FileSelector, FileType

        with self._naming("list", path):
            infos = self.filesystem.get_file_info(
                FileSelector(self.full(path), allow_not_found=True, recursive=True)
            )
        # S3 has no folders; pyarrow lists the prefixes between slashes as such.
        files = [info for info in infos if info.type == FileType.File]
        stored = [
            Stored(info.path.removeprefix(f"{self.root}/"), (info.mtime_ns or 0) / 1e9) for info in files
        ]
        return sorted(stored, key=lambda item: item.path)

    def folders(self, path: str = "") -> list[str]:
        """Names of the folders directly below a path."""
        from pyarrow.fs import FileSelector, FileType

        with self._naming("list", path):
            infos = self.filesystem.get_file_info(FileSelector(self.full(path), allow_not_found=True))
        return sorted(info.base_name for info in infos if info.type == FileType.Directory)

    def delete(self, path: str) -> None:
        """Remove an object; one that is not there is fine."""
        with contextlib.suppress(FileNotFoundError), self._naming("delete", path):
            self.filesystem.delete_file(self.full(path))

    def delete_tree(self, path: str) -> None:
        """Remove everything below a path."""
        with contextlib.suppress(FileNotFoundError), self._naming("delete", path):
            self.filesystem.delete_dir(self.full(path))

    def check(self, path: str) -> None:
        """Check that one byte can be written, read and deleted below a path: one attempt each, a time limit over all.

        Raises:
            PreflightError: one of them failed, or took longer than ``CHECK_TIMEOUT_S``.
        """
        # The timeouts of the single requests add up to more than a minute where a server hangs.
        name = f"{path}/.probe-{os.getpid()}"
        problem = within(CHECK_TIMEOUT_S, lambda: self._probe(name))
        if problem is not None:
            raise self._failed(problem)

    def _probe(self, name: str) -> str | None:
        """The step that failed and its object; None where all went well."""
        step = "connect"
        try:
            filesystem = self._connect(1)
            step = f"write {name}"
            with filesystem.open_output_stream(self.full(name)) as stream:
                stream.write(b"x")
            step = f"read {name}"
            with filesystem.open_input_stream(self.full(name)) as stream:
                if stream.read() != b"x":
                    return f"{name} reads back with another content"
            step = f"delete {name}"
            filesystem.delete_file(self.full(name))
        except REFUSALS as error:
            return f"cannot {step}: {error}"
        return None

    @contextlib.contextmanager
    def _naming(self, step: str, path: str) -> Iterator[None]:
        """Turn a failure into a message that names the step and the object."""
        try:
            yield
        # A missing object is an answer and no failure: callers return None, False, or go without it.
        except FileNotFoundError:
            raise
        except REFUSALS as error:
            raise self._failed(
                f"cannot {step} {path or 'it'}: {error}"
            ) from None  # its cause may quote credentials

    def _failed(self, reason: str) -> PreflightError:
        return PreflightError(
            f"--runs {self.shown}: must be a bucket that can be written, read and deleted from, got: "
            f"{scrubbed(reason, self.given)}; check address, AWS_ENDPOINT_URL, credentials and permissions"
        )


def s3_options(
    user: str | None, password: str | None, query: Mapping[str, str], environ: Mapping[str, str]
) -> dict[str, Any]:
    """Arguments of pyarrow's file system: from the address, and where it leaves them out from the environment.

    Args:
        user: of the address, percent-encoded.
        password: of the address, percent-encoded.
        query: of the address.
        environ: AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and the like.
    """
    # AWS_ENDPOINT_URL holds scheme and host as one; pyarrow wants them apart.
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
    scheme, _, host = endpoint.rpartition("://")
    options: dict[str, Any] = {
        "region": query.get("region")
        or environ.get("AWS_REGION")
        or environ.get("AWS_DEFAULT_REGION")
        or "us-east-1"
    }
    host = query.get("endpoint_override", host.rstrip("/"))
    if host:
        options |= {"endpoint_override": host.rpartition("://")[2]}
        scheme = host.rpartition("://")[0] or scheme
    options["scheme"] = query.get("scheme") or scheme or "https"
    key, secret = user or environ.get("AWS_ACCESS_KEY_ID"), password or environ.get("AWS_SECRET_ACCESS_KEY")
    if key and secret and user:
        options |= {"access_key": unquote(key), "secret_key": unquote(secret)}
    elif key and secret:
        # A session token belongs to the environment's keys and to no others.
        options |= {"access_key": key, "secret_key": secret}
        options["session_token"] = environ.get("AWS_SESSION_TOKEN")
    return options


def within(seconds: float, call: Callable[[], str | None]) -> str | None:
    """The answer of a call, or the message that none came in time; the call is left to itself then."""
    answers: list[str | None] = []
    # A daemon: a call that hangs must not keep the process from ending.
    thread = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else f"no answer within {seconds:.0f} s"
