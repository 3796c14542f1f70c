"""The product's own record of a sweep: plain files under ``runs/NAME/``.

Selection, pins and a resume read these records, not MLflow and not Ray, so they must survive a ``kill -9`` at any
instant: documents are written aside and renamed, and the one file that is appended to (``rounds.jsonl``) is read so
that a torn last line costs that line only. Nothing heavy is imported: ``selmix show`` must answer at once on a machine
without Ray, MLflow or torch in memory.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.documents import Document, from_document, to_document
from orchestrator.errors import NotFound, PreflightError
from orchestrator.files import drop_torn_line_, read_json, write_atomically, write_json, writing
from orchestrator.records.leases.on_disk import LeaseBackend
from orchestrator.records.paths import RunPaths
from orchestrator.records.store import LocalStore, Store, runs_flag
from orchestrator.records.types import BestHead, SweepState, TrialRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")
DOCUMENTS = (".json", ".yaml")
"""Endings of the documents of a sweep's folder."""

BESIDES = ("ray/", "lease/")
"""Subfolders of other files, some of which have the same endings."""

Round = dict[str, Any]
"""One row of ``rounds.jsonl``: round, steps, time_ms, score, feasible, select and scalars."""


class RunFolder(RunPaths):
    """``runs/NAME/``, which nothing else reads or writes.

    Args:
        store: where the runs lie.
        name: of the sweep.
    """

    def __init__(self, store: Store, name: str) -> None:
        super().__init__(store.root / name)
        self.store = store
        self.name = name

    @classmethod
    def local(cls, runs: Path, name: str) -> RunFolder:
        """The folder of a sweep in a runs folder that this machine sees."""
        return cls(LocalStore(runs), name)

    @classmethod
    def at(cls, store: Store, name: str) -> RunFolder:
        """The folder of a sweep that need not exist, with its documents brought here."""
        folder = cls(store, name)
        folder.store.pull(folder.path, DOCUMENTS, BESIDES)
        return folder

    @classmethod
    def open(cls, store: Store, name: str) -> RunFolder:
        """The folder of a sweep that exists.

        Raises:
            NotFound: there is no such sweep, or the folder of that name is not one.
        """
        # A name that leads out of the runs folder is not looked up at all.
        inside = name not in {"", ".", ".."} and "/" not in name and os.sep not in name
        folder = cls.at(store, name) if inside else cls(store, name)
        if inside and folder.state_path.is_file():
            return folder
        known = store.sweep_names()
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(known) or 'none'}"
        problem = "is not the folder of a sweep" if inside and folder.path.exists() else "does not exist"
        raise NotFound(f"{folder.shown}: {problem} (no sweep.json){hint}")

    @property
    def shown(self) -> str:
        """The folder as messages name it."""
        return self.store.shown_folder(self.name)

    @property
    def lease(self) -> LeaseBackend:
        """Keeper of the sweep's lease."""
        return self.store.lease(self.name)

    def create(self) -> None:
        """Make the folder, which is the first thing a launch writes.

        Raises:
            PreflightError: the runs folder cannot be written; nothing was.
        """
        with writing(self.path):
            for folder in ("trials", "baselines", "base"):
                (self.path / folder).mkdir(parents=True, exist_ok=True)

    def refresh(self) -> None:
        """Read the documents again: the lease was just taken from another driver."""
        self.store.forget(self.path)
        self.store.pull(self.path, DOCUMENTS, BESIDES)

    # -- documents ----------------------------------------------------------------------------------------

    def save_state(self, state: SweepState) -> None:
        self._write_json(self.state_path, state.to_document())

    def load_best_head(self, objective: str) -> BestHead | None:
        """Row of the best head that was handed up to the trials; None where none was."""
        return self.load(self.best_head_record(objective), BestHead)

    def load_state(self) -> SweepState:
        """The sweep as a whole.

        Raises:
            NotFound: this is not a sweep.
            PreflightError: its file is damaged.
        """
        path = self.store.current(self.state_path, anew=True)  # another process may have written it
        # Raises, with the names that there are.
        if not path.is_file():
            RunFolder.open(self.store, self.name)
        state: SweepState = self._typed(path, SweepState.from_document)
        return state

    def save_spec(self, spec: Document) -> None:
        self._write_json(self.spec_path, spec)

    def load_spec(self) -> Document:
        """The resolved sweep file as plain values (file and overrides); {} before the first launch wrote it."""
        return read_json(self.spec_path) if self.spec_path.is_file() else {}

    def save_file(self, file: Path) -> None:
        """Keep the sweep file as it was given."""
        write_atomically(self.file_path, file.read_bytes())
        self.store.publish(self.file_path)

    def save_trial(self, record: TrialRecord) -> None:
        self._write_json(self.record_path(record.trial_id), to_document(record))

    def load_trial(self, trial_id: str) -> TrialRecord:
        """A trial, replicate or baseline.

        Raises:
            NotFound: the sweep has none of that id.
            PreflightError: its file is damaged.
        """
        path = self.record_path(trial_id)
        # An id has slashes, and must not lead out of the folder.
        if ".." in trial_id.split("/") or not path.is_file():
            flag = runs_flag(self.store.shown)
            raise NotFound(f"{self.shown}: no trial {trial_id!r}; `selmix show {self.name}{flag}` lists them")
        return self._record(path)

    def load_trials(self) -> list[TrialRecord]:
        """Every trial and replicate, by objective, number, then the trial before its replicates by seed."""
        return self._records("trials")

    def load_baselines(self, objective: str | None = None) -> list[TrialRecord]:
        """Every baseline's record, in order of objective and name; ``objective``: those of one only."""
        return [r for r in self._records("baselines") if objective in {None, r.objective}]

    def _records(self, kind: str) -> list[TrialRecord]:
        records = [self._record(path) for path in (self.path / kind).rglob("record.json")]
        key = {"trial": 0, "replicate": 1, "baseline": 2}
        return sorted(records, key=lambda r: (r.objective, r.arm, r.number, key[r.kind], r.seed, r.trial_id))

    def _record(self, path: Path) -> TrialRecord:
        record: TrialRecord = self._typed(path, lambda document: from_document(TrialRecord, document))
        return record

    def save(self, path: Path, value: Any) -> None:
        """Write a dataclass as a document of this folder."""
        self._write_json(path, to_document(value))

    def load(self, path: Path, kind: type[T]) -> T | None:
        """A dataclass from a document of this folder; None where there is no such file.

        Raises:
            PreflightError: the file is damaged.
        """
        return self._typed(path, lambda document: from_document(kind, document)) if path.is_file() else None

    def _typed(self, path: Path, read: Callable[[Document], Any]) -> Any:
        document = read_json(path)
        try:
            return read(document)
        except ValueError as error:
            # pydantic's first line counts the problems; the next two name a key and its problem.
            reason = " ".join(line.strip() for line in str(error).splitlines()[1:3]) or str(error)
            raise PreflightError(f"{path}: must be a whole record: {reason}") from error

    def _write_json(self, path: Path, document: Document) -> None:
        write_json(path, document)
        self.store.publish(path)

    # -- rounds and arrays --------------------------------------------------------------------------------

    def append_round(self, trial_id: str, row: Mapping[str, Any]) -> None:
        """Add one line to ``rounds.jsonl``, first dropping a line that a killed process left half written."""
        path = self.store.current(self.rounds_path(trial_id))
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b") as file:
                drop_torn_line_(file)
                file.write(json.dumps(dict(row)).encode() + b"\n")
        self.store.publish(path)

    def rounds(self, trial_id: str) -> list[Round]:
        """Rows of the trial in order of round, each round once (the newest line counts); [] before the first.

        Raises:
            PreflightError: a line other than a torn last one is not JSON.
        """
        path = self.store.current(self.rounds_path(trial_id))
        lines = path.read_bytes().split(b"\n") if path.is_file() else []
        rows: dict[int, Round] = {}
        for number, line in enumerate(lines[:-1], start=1):  # after the last newline: nothing, or a torn line
            try:
                row = json.loads(line)
                # A run that resumed from a checkpoint has written the rounds after it again.
                rows[int(row["round"])] = row
            except (ValueError, KeyError, TypeError) as error:
                raise PreflightError(f"{path}:{number}: must be a JSON row with 'round': {error}") from error
        return [rows[index] for index in sorted(rows)]

    def weights_files(self, trial_id: str) -> list[Path]:
        """Weights of a baseline's models, in order of replicate; of a trial the only one."""
        return self._numbered(trial_id, "weights", ".safetensors")

    def load_predictions(self, trial_id: str) -> list[dict[str, NDArray[Any]]]:
        """Per-sample predictions on select, one mapping per stored replicate; [] where none is stored.

        Each holds ``labels``, ``predicted`` (int64), ``confidence`` (float32) and ``groups`` where the data have them.
        """
        import numpy

        loaded = []
        for path in self._numbered(trial_id, "predictions", ".npz"):
            # Without pickles, so that nothing in a file is ever run.
            with numpy.load(path, allow_pickle=False) as arrays:
                loaded.append({key: arrays[key] for key in arrays.files})
        return loaded

    def save_test_predictions(self, trial_id: str, index: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep predictions on test of a model that is pinned, in the form of :meth:`load_predictions`.

        Args:
            trial_id: of the record of the model.
            index: number of the model among those of the record.
            arrays: name -> per-sample values.
        """
        import numpy

        content, path = io.BytesIO(), self.test_predictions_path(trial_id, index)
        named: dict[str, Any] = dict(arrays)
        numpy.savez_compressed(content, **named)
        write_atomically(path, content.getvalue())
        self.store.publish(path)

    def load_test_predictions(self, trial_id: str, index: int) -> dict[str, NDArray[Any]] | None:
        """Predictions on test of a model, as :meth:`save_test_predictions` kept them; None where no pin opened test."""
        import numpy

        path = self.store.current(self.test_predictions_path(trial_id, index))
        if not path.is_file():
            return None
        with numpy.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}

    def _numbered(self, trial_id: str, name: str, ending: str) -> list[Path]:
        """``NAME.ENDING``, or ``NAME-0.ENDING``, ``NAME-1.ENDING``, ... in order."""
        folder = self.trial_folder(trial_id)
        self.store.pull(folder, (ending,))
        files = folder.glob(f"{name}*{ending}")
        # As texts, 10 would stand before 2.
        return sorted(files, key=lambda path: int(path.stem.partition("-")[2] or 0))

    # -- checkpoints --------------------------------------------------------------------------------------

    def address_of(self, path: Path) -> str:
        """A path of this folder as workers reach it."""
        return self.store.address_of(path)

    def checkpoint_address(self, checkpoint: str) -> str:
        """Address of a recorded checkpoint.

        Checkpoints are recorded relative to this folder: another driver may see it under another path.
        """
        # The absolute path of an older record stays as it is when it is joined.
        return self.store.address_of(self.path / checkpoint)

    def relative_checkpoint(self, address: str) -> str:
        """A checkpoint's address as it is recorded."""
        return address.removeprefix(f"{self.store.address_of(self.path)}/")

    def has_checkpoint(self, checkpoint: str) -> bool:
        """True if a recorded checkpoint is whole."""
        # The trainable writes this file last.
        return self.store.exists(self.path / checkpoint / "trial.json")

    def fetch_checkpoint(self, address: str, names: Sequence[str], home: Path) -> None:
        """Copy files of a checkpoint to ``home``, each whole or not at all.

        Args:
            address: of the checkpoint, as workers reach it.
            names: of the files.
            home: a folder on this machine; it is made.
        Raises:
            FileNotFoundError: one of them is not in it.
        """
        for name in names:
            self.store.copy(self.path / self.relative_checkpoint(address) / name, home / name)

    def unused_ray_path(self) -> Path:
        """A folder for checkpoints that no launch has used: Ray would mix the runs of an old one into the new one's."""
        used = [int(name) for name in self.store.subfolders(self.ray_path) if name.isdigit()]
        return self.ray_path / f"{1 + max(used, default=-1):03d}"

    def drop(self, relative: str) -> None:
        """Remove a checkpoint or all of Ray's files; those that are gone already are fine."""
        self.store.discard_tree(self.path / relative)


def list_sweeps(store: Store) -> list[RunFolder]:
    """Every sweep in a runs folder, by name; other folders are passed over, and a missing one holds none."""
    return [RunFolder.at(store, name) for name in store.sweep_names()]
