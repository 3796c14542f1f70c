"""Every path below the folder of a sweep; nothing else joins them."""

from __future__ import annotations

from pathlib import Path

from orchestrator.records.types import BASELINE


class RunPaths:
    """Paths below ``runs/NAME/``.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

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
    def stop_path(self) -> Path:
        """A request to the holder of the lease, beside it; see orchestrator.records.stop_request."""
        return self.path / "stop.json"

    @property
    def log_path(self) -> Path:
        return self.path / "driver.log"

    @property
    def journal_path(self) -> Path:
        return self.path / "journal.log"

    @property
    def choices_path(self) -> Path:
        """The winner of each objective, as it was decided before the baselines were fitted."""
        return self.path / "choices.json"

    @property
    def results_path(self) -> Path:
        return self.path / "results.json"

    @property
    def base_weights(self) -> Path:
        return self.path / "base" / "weights.safetensors"

    def base_head(self, objective: str) -> Path:
        """The balanced head; its weight decay is tuned for the objective's own metric."""
        return self.path / "base" / f"head-{objective}.safetensors"

    def best_head(self, objective: str) -> Path:
        """Best head of the rung ``head``, which ``start: best_head`` begins with."""
        return self.path / "base" / f"best-head-{objective}.safetensors"

    def best_head_record(self, objective: str) -> Path:
        """Row that this head is of."""
        return self.path / "base" / f"best-head-{objective}.json"

    def screen_path(self, objective: str) -> Path:
        """Record of the screen of an objective."""
        return self.path / "screen" / f"{objective}.json"

    def screen_table_path(self, objective: str) -> Path:
        """The screened configurations, a row each."""
        return self.path / "screen" / f"{objective}.parquet"

    @property
    def source_path(self) -> Path:
        """Source of the user's own functions of C, as it was at the first launch."""
        return self.path / "source"

    @property
    def staged_data(self) -> Path:
        """Data in a file that workers map or copy, while the sweep runs."""
        return self.path / "data.pt"

    @property
    def features_path(self) -> Path:
        """Features of the base model, while the sweep runs on this machine."""
        return self.path / "features"

    @property
    def ray_path(self) -> Path:
        """Ray's own files and checkpoints, gone when the sweep is finished."""
        return self.path / "ray"

    def trial_folder(self, trial_id: str) -> Path:
        """Folder of a trial, replicate or baseline; those of baselines lie under ``baselines/``."""
        # A baseline's id has a middle part of its own, OBJECTIVE/baseline/NAME, which its folder leaves out.
        objective, _, rest = trial_id.partition("/")
        if rest.startswith(f"{BASELINE}/"):
            return self.path / "baselines" / objective / rest.removeprefix(f"{BASELINE}/")
        return self.path / "trials" / trial_id

    def record_path(self, trial_id: str) -> Path:
        return self.trial_folder(trial_id) / "record.json"

    def trial_log_path(self, trial_id: str) -> Path:
        return self.trial_folder(trial_id) / "trial.log"

    def rounds_path(self, trial_id: str) -> Path:
        return self.trial_folder(trial_id) / "rounds.jsonl"

    def rounds_table_path(self, trial_id: str) -> Path:
        return self.trial_folder(trial_id) / "rounds.parquet"

    def weights_path(self, trial_id: str, index: int | None = None) -> Path:
        """Weights of the chosen round; a baseline has one file per replicate ``index``."""
        return self.trial_folder(trial_id) / f"weights{_suffix(index)}.safetensors"

    def predictions_path(self, trial_id: str, index: int | None = None) -> Path:
        return self.trial_folder(trial_id) / f"predictions{_suffix(index)}.npz"

    def test_predictions_path(self, trial_id: str, index: int) -> Path:
        """Predictions on test of one of a record's models; written by the pin that opened it, and by nothing else."""
        return self.trial_folder(trial_id) / f"test-predictions-{index}.npz"

    def arrays_path(self, digest: str) -> Path:
        """Data that Python gave a sweep, as a table; another digest is another content."""
        return self.path / "data" / f"{digest}.parquet"


def _suffix(index: int | None) -> str:
    return "" if index is None else f"-{index}"
