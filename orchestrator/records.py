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

from orchestrator.atomic import (
    drop_torn_line_,
    known_fields,
    read_json,
    write_atomically,
    write_json,
    writing,
)
from orchestrator.errors import NotFound, PreflightError
from orchestrator.recordtypes import BASELINE, Figures, Kind, SweepState, TrialRecord, TrialState

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Figures", "Kind", "RunFolder", "SweepState", "TrialRecord", "TrialState", "list_sweeps"]


@dataclass(frozen=True)
class RunFolder:
    """``runs/NAME/``: every path below it, and the only reads and writes of what lies there."""

    runs: Path
    name: str

    @classmethod
    def open(cls, runs: Path, name: str) -> RunFolder:
        """The folder of a sweep that exists.

        Raises:
            NotFound: there is no such sweep, or the folder of that name is not one.
        """
        folder = cls(Path(runs), name)
        inside = name not in {"", ".", ".."} and "/" not in name and os.sep not in name
        if inside and folder.state_path.is_file():
            return folder
        known = [other.name for other in list_sweeps(folder.runs)]
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(known) or 'none'}"
        what = "is not the folder of a sweep" if inside and folder.path.exists() else "does not exist"
        raise NotFound(f"{folder.runs / name}: {what} (no sweep.json){hint}")

    @property
    def path(self) -> Path:
        return self.runs / self.name

    @property
    def state_path(self) -> Path:
        return self.path / "sweep.json"

    @property
    def spec_path(self) -> Path:
        return self.path / "spec.json"

    @property
    def file_path(self) -> Path:
        return self.path / "sweep.yaml"

    @property
    def lease_path(self) -> Path:
        return self.path / "lease.json"

    @property
    def stop_path(self) -> Path:
        """Beside the lease: a request to its holder; see orchestrator.stopping."""
        return self.path / "stop.json"

    @property
    def log_path(self) -> Path:
        return self.path / "driver.log"

    def trial_log_path(self, trial_id: str) -> Path:
        return self.trial_folder(trial_id) / "trial.log"

    @property
    def journal_path(self) -> Path:
        return self.path / "journal.log"

    @property
    def results_path(self) -> Path:
        return self.path / "results.json"

    @property
    def base_weights(self) -> Path:
        return self.path / "base" / "weights.safetensors"

    def base_head(self, objective: str) -> Path:
        """The balanced head; its weight decay is tuned for the objective's own metric."""
        return self.path / "base" / f"head-{objective}.safetensors"

    @property
    def ray_path(self) -> Path:
        """Ray's own files, gone when the sweep is finished."""
        return self.path / "ray"

    def trial_folder(self, trial_id: str) -> Path:
        """Where a trial, replicate or baseline keeps its files; baselines lie under ``baselines/``."""
        objective, _, rest = trial_id.partition("/")
        if rest.startswith(f"{BASELINE}/"):
            return self.path / "baselines" / objective / rest.removeprefix(f"{BASELINE}/")
        return self.path / "trials" / trial_id

    def record_path(self, trial_id: str) -> Path:
        return self.trial_folder(trial_id) / "record.json"

    def rounds_path(self, trial_id: str) -> Path:
        return self.trial_folder(trial_id) / "rounds.jsonl"

    def rounds_table_path(self, trial_id: str) -> Path:
        return self.trial_folder(trial_id) / "rounds.parquet"

    def weights_path(self, trial_id: str, index: int | None = None) -> Path:
        """Weights of the chosen round; a baseline has one file per replicate ``index``."""
        return self.trial_folder(trial_id) / f"weights{_suffix(index)}.safetensors"

    def predictions_path(self, trial_id: str, index: int | None = None) -> Path:
        return self.trial_folder(trial_id) / f"predictions{_suffix(index)}.npz"

    def create(self) -> None:
        """Make the folder, which is the first thing a launch writes.

        Raises:
            PreflightError: the runs folder cannot be written; nothing was.
        """
        with writing(self.path):
            for folder in ("trials", "baselines", "base"):
                (self.path / folder).mkdir(parents=True, exist_ok=True)

    def save_state(self, state: SweepState) -> None:
        write_json(self.state_path, asdict(state))

    def load_state(self) -> SweepState:
        """Raises NotFound where this is not a sweep, PreflightError where its file is damaged."""
        if not self.state_path.is_file():
            RunFolder.open(self.runs, self.name)
        return SweepState(**known_fields(SweepState, read_json(self.state_path)))

    def save_spec(self, spec: Mapping[str, Any]) -> None:
        write_json(self.spec_path, dict(spec))

    def load_spec(self) -> dict[str, Any]:
        """The resolved sweep file as plain values (file and overrides); {} before it was written."""
        return read_json(self.spec_path) if self.spec_path.is_file() else {}

    def save_trial(self, record: TrialRecord) -> None:
        write_json(self.record_path(record.trial_id), asdict(record))

    def load_trial(self, trial_id: str) -> TrialRecord:
        """Raises NotFound where the sweep has no such trial, replicate or baseline."""
        path = self.record_path(trial_id)
        if ".." in trial_id.split("/") or not path.is_file():
            raise NotFound(f"{self.path}: no trial {trial_id!r}; `selmix show {self.name}` lists them")
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
        path = self.rounds_path(trial_id)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b") as file:
                drop_torn_line_(file)
                file.write(json.dumps(dict(row)).encode() + b"\n")

    def rounds(self, trial_id: str) -> list[dict[str, Any]]:
        """Rows of the trial in order of round, each round once (the newest line counts); [] before the first.

        Raises:
            PreflightError: a line other than a torn last one is not JSON.
        """
        path = self.rounds_path(trial_id)
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

    def save_predictions(
        self, trial_id: str, arrays: Mapping[str, NDArray[Any]], index: int | None = None
    ) -> None:
        """Per-sample predictions on select: ``labels``, ``predicted`` (int64) and ``confidence`` (float32)."""
        import io

        import numpy

        buffer = io.BytesIO()
        numpy.savez(buffer, allow_pickle=False, **dict(arrays))
        write_atomically(self.predictions_path(trial_id, index), buffer.getvalue())

    def load_predictions(self, trial_id: str) -> list[dict[str, NDArray[Any]]]:
        """One mapping per stored replicate, in order of index; a trial has one; [] where none is stored."""
        import numpy

        found = self.trial_folder(trial_id).glob("predictions*.npz")
        loaded = []
        for path in sorted(found, key=lambda p: int(p.stem.partition("-")[2] or 0)):
            with numpy.load(path, allow_pickle=False) as arrays:
                loaded.append({key: arrays[key] for key in arrays.files})
        return loaded


def list_sweeps(runs: Path) -> list[RunFolder]:
    """Every sweep under ``runs``, by name; other folders are passed over, a missing ``runs`` holds none."""
    found = sorted(Path(runs).glob("*/sweep.json"))
    return [RunFolder(Path(runs), path.parent.name) for path in found]


def _suffix(index: int | None) -> str:
    return "" if index is None else f"-{index}"
