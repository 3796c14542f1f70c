"""Our own record of a sweep: plain files under ``runs/NAME/``, and the one place that knows their paths.

The records, not MLflow and not Ray, are what selection, pins and a resume read, so they must survive a
``kill -9`` at any instant: documents are written aside and renamed, and the one file that is appended to
(``rounds.jsonl``) is read so that a torn last line costs that line only. Nothing heavy is imported: ``selmix
show`` must answer at once on a machine without Ray, MLflow or torch in memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import NotFound, PreflightError
from orchestrator.files import (
    drop_torn_line_,
    known_fields,
    read_json,
    write_atomically,
    write_json,
    writing,
)
from orchestrator.records.object_store import Runs
from orchestrator.records.synced_folder import StoredFolder
from orchestrator.records.types import Figures, Kind, SweepState, TrialRecord, TrialState

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Figures", "Kind", "RunFolder", "SweepState", "TrialRecord", "TrialState", "list_sweeps"]


@dataclass(frozen=True)
class RunFolder(StoredFolder):
    """``runs/NAME/``: the only reads and writes of what lies there."""

    @classmethod
    def at(cls, runs: Runs, name: str) -> RunFolder:
        """The folder of a sweep that need not exist; its documents are here if it lies in an object store."""
        if isinstance(runs, Path):
            return cls(runs, name)
        folder = cls(runs.working, name, runs)
        folder.pull("", (".json", ".yaml"), besides=("ray/", "lease/"))
        return folder

    @classmethod
    def open(cls, runs: Runs, name: str) -> RunFolder:
        """The folder of a sweep that exists.

        Raises:
            NotFound: there is no such sweep, or the folder of that name is not one.
        """
        inside = name not in {"", ".", ".."} and "/" not in name and os.sep not in name
        folder = cls.at(runs, name) if inside or isinstance(runs, Path) else cls(runs.working, name, runs)
        if inside and folder.state_path.is_file():
            return folder
        known = sweep_names(runs)
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(known) or 'none'}"
        what = "is not the folder of a sweep" if inside and folder.path.exists() else "does not exist"
        raise NotFound(f"{folder.shown}: {what} (no sweep.json){hint}")

    def _write_json(self, path: Path, document: Mapping[str, Any]) -> None:
        write_json(path, dict(document))
        self.publish(path)

    def weights_files(self, trial_id: str) -> list[Path]:
        """Weights of a baseline's models, in order of replicate; of a trial the only one."""
        self.pull(self._below(trial_id), (".safetensors",))
        found = self.trial_folder(trial_id).glob("weights*.safetensors")
        return sorted(found, key=lambda path: int(path.stem.partition("-")[2] or 0))

    def create(self) -> None:
        """Make the folder, which is the first thing a launch writes.

        Raises:
            PreflightError: the runs folder cannot be written; nothing was.
        """
        with writing(self.path):
            for folder in ("trials", "baselines", "base"):
                (self.path / folder).mkdir(parents=True, exist_ok=True)

    def save_state(self, state: SweepState) -> None:
        self._write_json(self.state_path, asdict(state))

    def load_state(self) -> SweepState:
        """Raises NotFound where this is not a sweep, PreflightError where its file is damaged."""
        if self.store is not None:
            self.store.fetch(
                self._key(self.state_path), self.state_path
            )  # another process may have written it
        if not self.state_path.is_file():
            RunFolder.open(self.store or self.runs, self.name)
        return SweepState(**known_fields(SweepState, read_json(self.state_path)))

    def save_spec(self, spec: Mapping[str, Any]) -> None:
        self._write_json(self.spec_path, spec)

    def load_spec(self) -> dict[str, Any]:
        """The resolved sweep file as plain values (file and overrides); {} before it was written."""
        return read_json(self.spec_path) if self.spec_path.is_file() else {}

    def save_file(self, file: Path) -> None:
        """Keep the sweep file as it was given."""
        write_atomically(self.file_path, file.read_bytes())
        self.publish(self.file_path)

    def save_results(self, document: Mapping[str, Any]) -> None:
        self._write_json(self.results_path, document)

    def save_trial(self, record: TrialRecord) -> None:
        self._write_json(self.record_path(record.trial_id), asdict(record))

    def load_trial(self, trial_id: str) -> TrialRecord:
        """Raises NotFound where the sweep has no such trial, replicate or baseline."""
        path = self.record_path(trial_id)
        if ".." in trial_id.split("/") or not path.is_file():
            raise NotFound(f"{self.shown}: no trial {trial_id!r}; `selmix show {self.name}` lists them")
        return TrialRecord(**known_fields(TrialRecord, read_json(path)))

    def load_trials(self) -> list[TrialRecord]:
        """Every trial and replicate, by objective, number, then the trial before its replicates by seed."""
        return self._load("trials")

    def load_baselines(self, objective: str | None = None) -> list[TrialRecord]:
        """Every baseline's record, in order of objective and name."""
        return [r for r in self._load("baselines") if objective in {None, r.objective}]

    def _load(self, kind: str) -> list[TrialRecord]:
        paths = (self.path / kind).rglob("record.json")
        records = [TrialRecord(**known_fields(TrialRecord, read_json(path))) for path in paths]
        key = {"trial": 0, "replicate": 1, "baseline": 2}
        return sorted(records, key=lambda r: (r.objective, r.arm, r.number, key[r.kind], r.seed, r.trial_id))

    def append_round(self, trial_id: str, row: Mapping[str, Any]) -> None:
        """Add one line to ``rounds.jsonl``, first dropping what a killed process left half written."""
        path = self.stored(self.rounds_path(trial_id))
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b") as file:
                drop_torn_line_(file)
                file.write(json.dumps(dict(row)).encode() + b"\n")
        self.publish(path)

    def rounds(self, trial_id: str) -> list[dict[str, Any]]:
        """Rows of the trial in order of round, each round once (the newest line counts); [] before the first.

        Raises:
            PreflightError: a line other than a torn last one is not JSON.
        """
        path = self.stored(self.rounds_path(trial_id))
        lines = path.read_bytes().split(b"\n") if path.is_file() else []
        rows: dict[int, dict[str, Any]] = {}
        for number, line in enumerate(lines[:-1], start=1):  # after the last newline: nothing, or a torn line
            try:
                row = json.loads(line)
                rows[int(row["round"])] = row
            except (ValueError, KeyError, TypeError) as error:
                raise PreflightError(f"{path}:{number}: must be a JSON row with 'round': {error}") from error
        return [rows[index] for index in sorted(rows)]

    def truncate_rounds(self, trial_id: str, after_round: int) -> None:
        """Keep the rounds up to and including ``after_round``: a trial goes on from its checkpoint's round."""
        kept = [row for row in self.rounds(trial_id) if row["round"] <= after_round]
        lines = "".join(json.dumps(row) + "\n" for row in kept)
        if self.rounds_path(trial_id).exists():
            write_atomically(self.rounds_path(trial_id), lines.encode())
            self.publish(self.rounds_path(trial_id))

    def save_predictions(
        self, trial_id: str, arrays: Mapping[str, NDArray[Any]], index: int | None = None
    ) -> None:
        """Per-sample predictions on select: ``labels``, ``predicted`` (int64) and ``confidence`` (float32)."""
        import io

        import numpy

        buffer = io.BytesIO()
        numpy.savez(buffer, allow_pickle=False, **dict(arrays))
        write_atomically(self.predictions_path(trial_id, index), buffer.getvalue())
        self.publish(self.predictions_path(trial_id, index))

    def load_predictions(self, trial_id: str) -> list[dict[str, NDArray[Any]]]:
        """One mapping per stored replicate, in order of index; a trial has one; [] where none is stored."""
        import numpy

        self.pull(self._below(trial_id), (".npz",))
        found = self.trial_folder(trial_id).glob("predictions*.npz")
        loaded = []
        for path in sorted(found, key=lambda p: int(p.stem.partition("-")[2] or 0)):
            with numpy.load(path, allow_pickle=False) as arrays:
                loaded.append({key: arrays[key] for key in arrays.files})
        return loaded


def sweep_names(runs: Runs) -> list[str]:
    """Names of the sweeps under ``runs``; other folders are passed over, a missing ``runs`` holds none."""
    if isinstance(runs, Path):
        return sorted(path.parent.name for path in runs.glob("*/sweep.json"))
    return [name for name in runs.folders() if runs.get(f"{name}/sweep.json") is not None]


def list_sweeps(runs: Runs) -> list[RunFolder]:
    """Every sweep under ``runs``, by name."""
    return [RunFolder.at(runs, name) for name in sweep_names(runs)]
