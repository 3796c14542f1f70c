"""Files of a run folder, wherever it lies: on a disk that all see, or in an object store behind a private copy."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from orchestrator.records.object_store import ObjectStore
from orchestrator.records.paths import RunPaths


@dataclass(frozen=True)
class StoredFolder(RunPaths):
    """``runs/NAME/``, its files and checkpoints."""

    store: ObjectStore | None = None
    """Where the truth lies if not in ``runs``, which then is a private copy."""

    @property
    def shown(self) -> str:
        """What messages call this folder."""
        return str(self.path) if self.store is None else f"{self.store.shown.partition('?')[0]}/{self.name}"

    def publish(self, path: Path) -> None:
        """A file of this folder was written: it goes through to the object store, if there is one."""
        if self.store is not None:
            self.store.put_file(path, self._key(path))

    def publish_later(self, path: Path) -> None:
        """As :meth:`publish`, at the next flush of the store."""
        if self.store is not None:
            self.store.put_later(path, self._key(path))

    def stored(self, path: Path, anew: bool = False) -> Path:
        """``path``, its file brought here from the object store if it was only there, or in any case (``anew``)."""
        if (
            self.store is not None
            and (anew or not path.is_file())
            and not self.store.fetch(self._key(path), path)
        ):
            path.unlink(missing_ok=True)
        return path

    def discard(self, path: Path) -> None:
        """Remove a file of this folder; one that is gone is fine."""
        path.unlink(missing_ok=True)
        if self.store is not None:
            self.store.delete(self._key(path))

    def pull(self, below: str, endings: tuple[str, ...], besides: tuple[str, ...] = ()) -> None:
        """Bring files below a folder here that are only in the object store."""
        if self.store is None:
            return
        paths = [item.path for item in self.store.objects(f"{self.name}/{below}".rstrip("/"))]
        wanted = [
            p
            for p in paths
            if p.endswith(endings) and not p.removeprefix(f"{self.name}/").startswith(besides)
        ]
        self.store.fetch_all([p for p in wanted if not (self.runs / p).exists()], self.runs)

    def refresh(self) -> None:
        """Forget the private copy and read the documents again: the lease was just taken from another driver."""
        if self.store is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            self.pull("", (".json", ".yaml"), besides=("ray/", "lease/"))

    def _key(self, path: Path) -> str:
        return path.relative_to(self.runs).as_posix()

    def _below(self, trial_id: str) -> str:
        return self.trial_folder(trial_id).relative_to(self.path).as_posix()

    def address_of(self, path: Path) -> str:
        """A path of this folder as workers reach it; see :meth:`checkpoint_address`."""
        return self.checkpoint_address(path.relative_to(self.path).as_posix())

    def checkpoint_address(self, checkpoint: str) -> str:
        """Where a recorded checkpoint lies now, for whatever reads it: a path, in the store one of its file system.

        Checkpoints are recorded relative to this folder: another driver may see it under another path.
        """
        if self.store is not None:
            return self.store.full(f"{self.name}/{checkpoint}")
        return str((self.path / checkpoint).absolute())

    def relative_checkpoint(self, address: str) -> str:
        """What to record of a checkpoint; the inverse of :meth:`checkpoint_address`."""
        root = self.store.full(self.name) if self.store is not None else str(self.path.absolute())
        return address.removeprefix(f"{root}/")

    def has_checkpoint(self, checkpoint: str) -> bool:
        """Whether a recorded checkpoint is whole."""
        if self.store is not None:
            return self.store.get(f"{self.name}/{checkpoint}/trial.json") is not None
        return (self.path / checkpoint / "trial.json").is_file()

    def fetch_checkpoint(self, address: str, names: tuple[str, ...], home: Path) -> None:
        """Copy files of a checkpoint to ``home``, each whole or not at all.

        Raises:
            FileNotFoundError: one of them is not in it.
        """
        home.mkdir(parents=True, exist_ok=True)
        for name in names:
            if self.store is None:
                aside = home / f".{name}.part"
                shutil.copyfile(Path(address) / name, aside)
                aside.replace(home / name)
            elif not self.store.fetch(f"{self.name}/{self.relative_checkpoint(address)}/{name}", home / name):
                raise FileNotFoundError(f"{self.shown}: a checkpoint lacks {name}")

    def drop(self, relative: str) -> None:
        """Remove a checkpoint or all of Ray's files; what is gone already is fine."""
        if self.store is not None:
            self.store.delete_tree(f"{self.name}/{relative}")
        else:
            shutil.rmtree(self.path / relative, ignore_errors=True)
