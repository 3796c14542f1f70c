"""Runs in an object store, behind a private copy on the local disk.

A verb works in a private folder that begins empty and goes with its process; the store is the truth. Files that are
written there go through to the store in the same order; files that are read come from the store at their first use.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.errors import PreflightError
from orchestrator.records.leases.in_store import ClaimLease
from orchestrator.records.leases.on_disk import LeaseBackend, this_process
from orchestrator.records.object_store import ObjectStore
from orchestrator.records.store import LocalStore, Store

LOCK_TIMEOUT_S = 120.0
"""Twice as long as a holder on another host may be dead before it counts as such."""


class SyncedStore:
    """A runs folder in an object store; see :class:`orchestrator.records.store.Store` for the methods.

    Args:
        objects: the object store, which is the truth.
    """

    poll_s = 2.0
    watch_s = 5.0

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects
        self._root: Path | None = None
        # A dict as an ordered set: a signal handler adds to it, and must not wait for a lock.
        self._later: dict[Path, None] = {}

    @property
    def root(self) -> Path:
        """The private folder of this process, readable by its owner only; begins empty."""
        if self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix="selmix-runs-"))
            # Also when the interpreter exits while the store is still in use.
            weakref.finalize(self, shutil.rmtree, self._root, True)
        return self._root

    @property
    def shown(self) -> str:
        return self.objects.shown

    def shown_folder(self, name: str) -> str:
        # The query of the address says how to connect, not which folder it is.
        return f"{self.objects.shown.partition('?')[0]}/{name}"

    def own_tracking(self) -> Path | None:
        return None

    def check(self, name: str) -> None:
        self.objects.check(name)

    def check_for_launch(self) -> None:
        self.objects.for_workers()

    def sweep_names(self) -> list[str]:
        # Other folders may share the bucket.
        return [name for name in self.objects.folders() if self.objects.get(f"{name}/sweep.json") is not None]

    def publish(self, path: Path) -> None:
        self.objects.put_file(path, self._key(path))

    def publish_later(self, path: Path) -> None:
        self._later[path] = None

    def flush(self) -> None:
        """Publish the files that wait; one that the store refuses is tried again at the next call."""
        for path in list(self._later):
            # Before it is read: a line that is added meanwhile puts it on the list again.
            self._later.pop(path, None)
            if path.is_file():
                try:
                    self.publish(path)
                except PreflightError:
                    self._later.setdefault(path, None)
                    return  # the store is away, and every other file would wait for its timeout too

    def current(self, path: Path, anew: bool = False) -> Path:
        # A file that is gone from the store must not live on as a copy.
        if (anew or not path.is_file()) and not self.objects.fetch(self._key(path), path):
            path.unlink(missing_ok=True)
        return path

    def pull(self, folder: Path, endings: tuple[str, ...], besides: tuple[str, ...] = ()) -> None:
        below = self._key(folder)
        wanted = [
            item.path
            for item in self.objects.objects(below)
            if item.path.endswith(endings) and not item.path.removeprefix(f"{below}/").startswith(besides)
        ]
        # A file that is here may be newer than its object, as long as it waits to be published.
        self.objects.fetch_all([path for path in wanted if not (self.root / path).exists()], self.root)

    def forget(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    def exists(self, path: Path) -> bool:
        # The absolute path of an older record is one of the disk that it was written on.
        return path.is_relative_to(self.root) and self.objects.get(self._key(path)) is not None

    def discard(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self.objects.delete(self._key(path))

    def discard_tree(self, path: Path) -> None:
        self.objects.delete_tree(self._key(path))

    def subfolders(self, path: Path) -> list[str]:
        return self.objects.folders(self._key(path))

    def address_of(self, path: Path) -> str:
        return self.objects.full(self._key(path))

    def path_of(self, address: str) -> Path:
        return self.root / address.removeprefix(self.objects.root).lstrip("/")

    def copy(self, path: Path, target: Path) -> None:
        if not self.objects.fetch(self._key(path), target):
            raise FileNotFoundError(f"{self.shown}: there is no {self._key(path)}")

    def filesystem(self) -> Any:
        return self.objects.for_workers()

    @contextlib.contextmanager
    def probe(self, name: str, content: bytes) -> Iterator[str]:
        with contextlib.suppress(PreflightError):  # reported by the store's own check
            self.objects.put(name, content)
        try:
            yield self.objects.root
        finally:
            with contextlib.suppress(PreflightError):
                self.objects.delete(name)

    def lease(self, name: str) -> LeaseBackend:
        return ClaimLease(self.objects, name)

    @contextlib.contextmanager
    def exclusively(self, name: str) -> Iterator[None]:
        # No sweep's name begins with a dot, so its folder cannot be this one.
        lease = ClaimLease(self.objects, f".{name}")
        mine, end = this_process(), time.monotonic() + LOCK_TIMEOUT_S
        while (other := lease.claim(mine)) is not None:
            if time.monotonic() > end:
                raise PreflightError(
                    f"{self.shown_folder(name)}: must be written by one process at a time, held by process "
                    f"{other.pid} on {other.host}; wait for it, then run the command again"
                )
            time.sleep(self.poll_s)
            # Each claim is a new one: a withdrawn one may still be listed.
            mine = this_process()
        try:
            yield
        finally:
            lease.withdraw(mine)

    def _key(self, path: Path) -> str:
        # The root itself is a dot to pathlib, and would be an object of that name to the store.
        return "" if path == self.root else path.relative_to(self.root).as_posix()


def open_store(text: str) -> Store:
    """The value of ``--runs``: a folder, or an address of an object store.

    Raises:
        UsageError: an address of another kind than ``s3://``.
    """
    if "://" not in text:
        return LocalStore(Path(text))
    return SyncedStore(ObjectStore(text, os.environ))
