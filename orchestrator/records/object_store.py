"""Runs folders in an object store: ``s3://bucket/prefix``, spoken to through pyarrow.

A verb works in a private folder on the local disk that begins empty and goes with its process; the store is the
truth. What is written there goes through to the store in the same order, what is read comes from the store when it
is first asked for. An object is whole or not there, so the order of writes means remotely what it means locally.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from orchestrator.errors import PreflightError, UsageError
from orchestrator.records.s3_options import QUERY, s3_options
from orchestrator.tracking.address import masked, scrubbed

SCHEME = "s3://"
CHECK_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S = 5.0, 20.0
ATTEMPTS = 3
AT_ONCE = 16
T = TypeVar("T")


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
        self._working: Path | None = None
        self._later: dict[str, Path] = {}

    @property
    def working(self) -> Path:
        """The private folder of this process, readable by its owner only; begins empty."""
        if self._working is None:
            self._working = Path(tempfile.mkdtemp(prefix="selmix-runs-"))
            weakref.finalize(self, shutil.rmtree, self._working, True)
        return self._working

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
        with self._speaking(path), self.filesystem.open_output_stream(self.full(path)) as stream:
            stream.write(content)

    def put_file(self, local: Path, path: str) -> None:
        """Write a local file as an object."""
        with (
            self._speaking(path),
            local.open("rb") as file,
            self.filesystem.open_output_stream(self.full(path)) as stream,
        ):
            while block := file.read(1 << 22):
                stream.write(block)

    def put_later(self, local: Path, path: str) -> None:
        """Write a local file at the next :meth:`flush`; takes no lock, so a signal handler may call it."""
        self._later[path] = local

    def flush(self) -> None:
        """Write what :meth:`put_later` named; what the store does not take is tried again at the next call."""
        for path in list(self._later):
            local = self._later.pop(path, None)
            if local is not None and local.is_file():
                try:
                    self.put_file(local, path)
                except PreflightError:
                    self._later.setdefault(path, local)
                    return  # the others would wait for it as long

    def get(self, path: str) -> bytes | None:
        """The content of an object; None where there is none."""
        try:
            with self._speaking(path), self.filesystem.open_input_stream(self.full(path)) as stream:
                content: bytes = stream.read()
                return content
        except FileNotFoundError:
            return None

    def fetch(self, path: str, local: Path) -> bool:
        """Copy an object to a local file, written aside and renamed; False where there is none."""
        local.parent.mkdir(parents=True, exist_ok=True)
        aside = local.with_name(f".{local.name}.{threading.get_ident()}.part")
        try:
            source = self.full(path)
            with (
                self._speaking(path),
                self.filesystem.open_input_stream(source) as stream,
                aside.open("wb") as file,
            ):
                while block := stream.read(1 << 22):
                    file.write(block)
        except FileNotFoundError:
            return False
        aside.replace(local)
        return True

    def fetch_all(self, paths: Sequence[str], folder: Path) -> None:
        """Copy objects below a local folder, several at a time."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda path: self.fetch(path, folder / path), paths))

    def objects(self, path: str) -> list[Stored]:
        """Every object below a path, by path; [] where there is none."""
        from pyarrow.fs import FileSelector, FileType

        with self._speaking(path):
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

        with self._speaking(path):
            found = self.filesystem.get_file_info(FileSelector(self.full(path), allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == FileType.Directory)

    def delete(self, path: str) -> None:
        """Remove an object; one that is not there is fine."""
        with contextlib.suppress(FileNotFoundError), self._speaking(path):
            self.filesystem.delete_file(self.full(path))

    def delete_tree(self, path: str) -> None:
        """Remove everything below a path."""
        with contextlib.suppress(FileNotFoundError), self._speaking(path):
            self.filesystem.delete_dir(self.full(path))

    def check(self, path: str) -> None:
        """Write, read and delete one byte below a path, with one attempt each and a limit over all.

        Raises:
            PreflightError: one of them failed, or took longer than ``CHECK_TIMEOUT_S``.
        """
        name = f"{path}/.probe-{os.getpid()}"
        problem = within(CHECK_TIMEOUT_S, lambda: self._probe(name))
        if problem is not None:
            raise self._failed(problem)

    def _probe(self, name: str) -> str | None:
        try:
            filesystem = self._connect(1)
            with filesystem.open_output_stream(self.full(name)) as stream:
                stream.write(b"x")
            with filesystem.open_input_stream(self.full(name)) as stream:
                if stream.read() != b"x":
                    return "what was written does not read back"
            filesystem.delete_file(self.full(name))
        except OSError as error:
            return str(error)
        return None

    @contextlib.contextmanager
    def _speaking(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._failed(f"{path}: {error}") from None  # its cause may quote the credentials

    def _failed(self, reason: str) -> PreflightError:
        return PreflightError(
            f"--runs {self.shown}: must be a bucket that can be written, read and deleted from, got: "
            f"{scrubbed(reason, self.given)}; check address, AWS_ENDPOINT_URL, credentials and permissions"
        )


Runs = Path | ObjectStore
"""Where sweeps lie: a folder, also of shared storage, or an object store."""


def runs_argument(text: str) -> Runs:
    """The value of ``--runs``.

    Raises:
        UsageError: an address of another kind than ``s3://``.
    """
    if "://" not in text:
        return Path(text)
    return ObjectStore(text, os.environ)


def within(seconds: float, call: Callable[[], str | None]) -> str | None:
    """What a call says, or that it did not answer in time; it is left to itself then."""
    said: list[str | None] = []
    thread = threading.Thread(target=lambda: said.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    return said[0] if said else f"no answer within {seconds:.0f} s"
