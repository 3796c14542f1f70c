"""The runs folder: one protocol, and the implementation for a folder that this machine sees.

Files are always read and written below :attr:`Store.root`, a folder on this machine. For a local store that is the
truth; :mod:`orchestrator.records.synced_folder` keeps a private copy of an object store there.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from orchestrator.errors import PreflightError
from orchestrator.files import check_writable, writing
from orchestrator.records.leases.on_disk import DiskLease, LeaseBackend, file_lock
from selmix.files import written_aside


class Store(Protocol):
    """The runs folder: the files of all its sweeps, each below a folder of its name."""

    @property
    def root(self) -> Path:
        """Folder on this machine below which files are read and written."""

    @property
    def poll_s(self) -> float:
        """Seconds between two looks at a file that another process writes."""

    @property
    def watch_s(self) -> float:
        """Seconds between two looks of a driver's watch, which also calls :meth:`flush`."""

    @property
    def shown(self) -> str:
        """The runs folder as messages name it."""

    def shown_folder(self, name: str) -> str:
        """The folder of a sweep as messages name it."""

    def own_tracking(self) -> Path | None:
        """Folder in which an MLflow file of our own may lie; None where a server must be named."""

    def check(self, name: str) -> None:
        """Try to write the folder of a sweep; leaves nothing behind.

        Raises:
            PreflightError: it cannot be written.
        """

    def check_for_launch(self) -> None:
        """Refuse a store that a sweep could not run on.

        Raises:
            UsageError: workers could not reach it.
        """

    def sweep_names(self) -> list[str]:
        """Names of the sweeps, sorted."""

    def publish(self, path: Path) -> None:
        """Let others see a file that was written below the root."""

    def publish_later(self, path: Path) -> None:
        """As :meth:`publish`, at the next :meth:`flush`; takes no lock, so a signal handler may call it."""

    def flush(self) -> None:
        """Publish the files that :meth:`publish_later` named."""

    def current(self, path: Path, anew: bool = False) -> Path:
        """Bring the file of ``path`` here if it is only elsewhere, or in any case (``anew``); returns ``path``."""

    def pull(self, folder: Path, endings: tuple[str, ...], besides: tuple[str, ...] = ()) -> None:
        """Bring files below a folder here.

        Args:
            folder: below the root.
            endings: of the names of the files.
            besides: subfolders whose files stay where they are.
        """

    def forget(self, folder: Path) -> None:
        """Drop the local copy of a folder: another process may have changed it."""

    def exists(self, path: Path) -> bool:
        """True if there is such a file, wherever it lies."""

    def discard(self, path: Path) -> None:
        """Remove a file; one that is gone is fine."""

    def discard_tree(self, path: Path) -> None:
        """Remove a folder; one that is gone is fine."""

    def subfolders(self, path: Path) -> list[str]:
        """Names of the folders directly below a path."""

    def address_of(self, path: Path) -> str:
        """A path as workers reach it: absolute, or one of :meth:`filesystem`."""

    def path_of(self, address: str) -> Path:
        """The path whose :meth:`address_of` is this."""

    def copy(self, path: Path, target: Path) -> None:
        """Copy a file to a folder on this machine, whole or not at all.

        Raises:
            FileNotFoundError: there is none.
        """

    def filesystem(self) -> Any:
        """pyarrow's file system for workers, without credentials; None: their paths are paths."""

    def probe(self, name: str, content: bytes) -> AbstractContextManager[str]:
        """A file in the runs folder for as long as the block lasts; yields the folder's address.

        Files that nodes leave beside it (``NAME*``) go with it, and a folder that was made for it.
        """

    def lease(self, name: str) -> LeaseBackend:
        """Keeper of the lease of a sweep."""

    def exclusively(self, name: str) -> AbstractContextManager[None]:
        """A lock of the runs folder, held for as long as the block lasts; others wait.

        Args:
            name: of the lock: what is read and written under it.
        Raises:
            PreflightError: the folder cannot be written, or another process does not let go of the lock.
        """


DEFAULT_RUNS = "runs"
"""The runs folder where ``--runs`` is not given."""


def runs_flag(shown: str) -> str:
    """``--runs FOLDER`` for a command that a message advises, with a blank before it; empty for the default folder.

    Args:
        shown: the runs folder as messages name it, :attr:`Store.shown`.
    """
    return "" if shown == DEFAULT_RUNS else f" --runs {shlex.quote(shown)}"


class LocalStore:
    """A runs folder that this machine sees, also on shared storage; see :class:`Store` for the methods.

    Args:
        folder: need not exist.
    """

    poll_s = 0.5
    watch_s = 1.0

    def __init__(self, folder: Path) -> None:
        self.root = folder

    @property
    def shown(self) -> str:
        return str(self.root)

    def shown_folder(self, name: str) -> str:
        return str(self.root / name)

    def own_tracking(self) -> Path | None:
        return self.root

    def check(self, name: str) -> None:
        check_writable(self.root / name)

    def check_for_launch(self) -> None:
        """Refuse nothing: workers see the folder under the same path."""

    def sweep_names(self) -> list[str]:
        return sorted(path.parent.name for path in self.root.glob("*/sweep.json"))

    def publish(self, path: Path) -> None:
        """Do nothing: others see the written file at once."""

    def publish_later(self, path: Path) -> None:
        """Do nothing: see :meth:`publish`."""

    def flush(self) -> None:
        """Do nothing: see :meth:`publish`."""

    def current(self, path: Path, anew: bool = False) -> Path:
        return path

    def pull(self, folder: Path, endings: tuple[str, ...], besides: tuple[str, ...] = ()) -> None:
        """Do nothing: all files are here."""

    def forget(self, folder: Path) -> None:
        """Do nothing: there is no copy."""

    def exists(self, path: Path) -> bool:
        return path.is_file()

    def discard(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def discard_tree(self, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)

    def subfolders(self, path: Path) -> list[str]:
        return sorted(entry.name for entry in path.glob("*") if entry.is_dir())

    def address_of(self, path: Path) -> str:
        return str(path.absolute())

    def path_of(self, address: str) -> Path:
        return Path(address)

    def copy(self, path: Path, target: Path) -> None:
        with written_aside(target) as aside:
            shutil.copyfile(path, aside)

    def filesystem(self) -> Any:
        return None

    @contextlib.contextmanager
    def probe(self, name: str, content: bytes) -> Iterator[str]:
        folder = self.root.absolute()
        # The innermost first, in which order they can be removed again.
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        try:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            except OSError as error:
                raise PreflightError(
                    f"{folder}: must be writable: {error.strerror or error}; choose another --runs folder"
                ) from error
            yield str(folder)
        finally:
            # A folder that somebody else has written to meanwhile is not empty, and stays.
            with contextlib.suppress(OSError):
                for left in folder.glob(f"{name}*"):  # also of a node that was cut off
                    left.unlink()
                for each in made:
                    each.rmdir()

    def lease(self, name: str) -> LeaseBackend:
        return DiskLease(self.root / name)

    @contextlib.contextmanager
    def exclusively(self, name: str) -> Iterator[None]:
        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        with file_lock(self.root / f"{name}.lock"):
            yield
