"""An object store, ``s3://bucket/prefix``, spoken to through pyarrow.

An object is whole or not there, so the order of writes means remotely what it means on a disk.
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
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Stored:
    """One object: its path below the address, and when the store took it, in seconds of the store's clock."""

    path: str
    time_s: float


class ObjectStore:
    """Objects below one address; paths are relative to it, with ``/``.

    Args:
        address: ``s3://[KEY:SECRET@]bucket[/prefix][?region=&scheme=&endpoint_override=]``; what it leaves out is
            taken from ``environ`` (AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, ...), secrets better so.
    Raises:
        UsageError: no such address.
    """

    def __init__(self, address: str, environ: Mapping[str, str]) -> None:
        self.given = address  # may hold credentials: never shown
        self.shown = masked(address)
        parts = urlsplit(address)
        place = parts.netloc.rpartition("@")[2]
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        unknown = sorted(set(query) - set(QUERY))
        if parts.scheme != "s3" or not place or unknown:
            what = f"unknown {', '.join(unknown)}" if unknown else "no bucket"
            raise UsageError(
                f"--runs: must be FOLDER or s3://bucket/prefix with {', '.join(QUERY)} as query, got {self.shown!r} "
                f"({what})"
            )
        self.root = f"{place}/{parts.path.strip('/')}".rstrip("/")
        self._options = s3_options(parts.username, parts.password, query, environ)
        self._lock = threading.Lock()
        self._filesystem: Any = None

    @property
    def filesystem(self) -> Any:
        """pyarrow's file system, with the credentials in it: for this process only."""
        with self._lock:
            if self._filesystem is None:
                self._filesystem = self._connect(ATTEMPTS)
            return self._filesystem

    def for_workers(self) -> Any:
        """The same without credentials, to be pickled: whoever reads it has its own, in its environment.

        Ray and Tune write what they pickle to logs and snapshots, on disks and in the bucket itself.

        Raises:
            UsageError: the address holds credentials, which workers would not get.
        """
        if self.given != self.shown:
            raise UsageError(
                f"--runs {self.shown}: must be without credentials for a sweep to run, got some in the address: set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead, on the nodes of a cluster too"
            )
        secret = {"access_key", "secret_key", "session_token"}
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
            PreflightError: the store does not take it (as in every method below).
        """
        with self._speaking("write", path), self.filesystem.open_output_stream(self.full(path)) as stream:
            stream.write(content)

    def put_file(self, local: Path, path: str) -> None:
        """Write a local file as an object."""
        with (
            self._speaking("write", path),
            local.open("rb") as file,
            self.filesystem.open_output_stream(self.full(path)) as stream,
        ):
            while block := file.read(_BLOCK):
                stream.write(block)

    def get(self, path: str) -> bytes | None:
        """The content of an object; None where there is none."""
        try:
            with self._speaking("read", path), self.filesystem.open_input_stream(self.full(path)) as stream:
                content: bytes = stream.read()
                return content
        except FileNotFoundError:
            return None

    def fetch(self, path: str, local: Path) -> bool:
        """Copy an object to a local file, whole or not at all; False where there is none."""
        try:
            with (
                self._speaking("read", path),
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

        with self._speaking("list", path):
            found = self.filesystem.get_file_info(
                FileSelector(self.full(path), allow_not_found=True, recursive=True)
            )
        kept = [info for info in found if info.type == FileType.File]
        stored = [
            Stored(info.path.removeprefix(f"{self.root}/"), (info.mtime_ns or 0) / 1e9) for info in kept
        ]
        return sorted(stored, key=lambda item: item.path)

    def folders(self, path: str = "") -> list[str]:
        """Names of the folders directly below a path."""
        from pyarrow.fs import FileSelector, FileType

        with self._speaking("list", path):
            found = self.filesystem.get_file_info(FileSelector(self.full(path), allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == FileType.Directory)

    def delete(self, path: str) -> None:
        """Remove an object; one that is not there is fine."""
        with contextlib.suppress(FileNotFoundError), self._speaking("delete", path):
            self.filesystem.delete_file(self.full(path))

    def delete_tree(self, path: str) -> None:
        """Remove everything below a path."""
        with contextlib.suppress(FileNotFoundError), self._speaking("delete", path):
            self.filesystem.delete_dir(self.full(path))

    def check(self, path: str) -> None:
        """Try to write, read and delete one byte below a path, with one attempt each and a limit over all.

        Raises:
            PreflightError: one of them failed, or took longer than ``CHECK_TIMEOUT_S``.
        """
        name = f"{path}/.probe-{os.getpid()}"
        problem = within(CHECK_TIMEOUT_S, lambda: self._probe(name))
        if problem is not None:
            raise self._failed(problem)

    def _probe(self, name: str) -> str | None:
        """The step that failed, and of what; None where all went well."""
        step = "connect"
        try:
            filesystem = self._connect(1)
            step = f"write {name}"
            with filesystem.open_output_stream(self.full(name)) as stream:
                stream.write(b"x")
            step = f"read {name}"
            with filesystem.open_input_stream(self.full(name)) as stream:
                if stream.read() != b"x":
                    return "what was written does not read back"
            step = f"delete {name}"
            filesystem.delete_file(self.full(name))
        except OSError as error:
            return f"cannot {step}: {error}"
        return None

    @contextlib.contextmanager
    def _speaking(self, act: str, path: str) -> Iterator[None]:
        """Turn a failure into a message that names the step and the object."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._failed(
                f"cannot {act} {path or 'it'}: {error}"
            ) from None  # its cause may quote credentials

    def _failed(self, reason: str) -> PreflightError:
        return PreflightError(
            f"--runs {self.shown}: must be a bucket that can be written, read and deleted from, got: "
            f"{scrubbed(reason, self.given)}; check address, AWS_ENDPOINT_URL, credentials and permissions"
        )


def s3_options(
    user: str | None, password: str | None, query: Mapping[str, str], environ: Mapping[str, str]
) -> dict[str, Any]:
    """Arguments of pyarrow's file system: what the address says first, then the environment.

    Args:
        user, password: of the address, percent-encoded.
        query: of the address.
        environ: AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and the like.
    """
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
    """The answer of a call, or that it did not come in time; the call is left to itself then."""
    answers: list[str | None] = []
    thread = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else f"no answer within {seconds:.0f} s"
