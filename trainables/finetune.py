"""The Tune trainable around one fine-tuning run: one ``step()`` is one round."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from ray import tune

from selmix.base import Base
from selmix.config import FinetuneConfig
from selmix.data.splits import SweepData
from selmix.run import Run
from selmix.selection import SelectionRule
from trainables.outcome import write_outcome
from trainables.remote import fetched

CHECKPOINT_EVERY_S = 10.0


@dataclass(frozen=True)
class Shared:
    """What every trial of a sweep reads from the object store.

    Attributes:
        data: train, feedback and select, on the CPU; never the test split.
        bases: objective -> the start models. rules: objective -> how its rounds are ranked.
        threads: torch threads of a trial; one and two give different bits.
        gpu: whether trials run on the first GPU they see.
        filesystem: pyarrow's, where checkpoints and baselines lie; None: this machine's.
        checkpoint_every_s: least time between two checkpoints of a trial that goes on.
    """

    data: SweepData
    bases: Mapping[str, Base]
    rules: Mapping[str, SelectionRule]
    threads: int
    gpu: bool
    filesystem: Any = None
    checkpoint_every_s: float = CHECKPOINT_EVERY_S

    def on_device(self) -> SweepData:
        """The data where trials run."""
        return self.data.to(torch.device("cuda" if self.gpu else "cpu"))


class FinetuneTrainable(tune.Trainable):
    """Runs ``config["config"]`` under ``config["objective"]`` from ``config["seed"]``.

    ``config`` holds ``trial_id`` (ours), ``objective``, ``seed``, ``config`` (the flat settings) and, for a trial
    that goes on, ``resume_from`` (a checkpoint folder).
    """

    def setup(self, config: dict[str, Any], shared: Shared | None = None) -> None:
        if shared is None:
            raise ValueError("FinetuneTrainable needs `shared`; wrap it with tune.with_parameters")
        self._shared = replace(shared, data=shared.on_device())
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start another trial in this process: nothing of the last one is kept but the data."""
        self._start(new_config)
        return True

    def _start(self, config: dict[str, Any]) -> None:
        torch.set_num_threads(self._shared.threads)
        objective = config["objective"]
        self._run = Run(
            self._shared.data, self._shared.bases[objective], objective, FinetuneConfig(**config["config"]),
            seed=config["seed"], selection=self._shared.rules[objective],
        )  # fmt: skip
        self._cost_s = 0.0
        self._saved_at = time.monotonic()
        if config.get("resume_from"):
            with fetched(self._shared.filesystem, config["resume_from"]) as folder:
                self.load_checkpoint(str(folder))

    def step(self) -> dict[str, Any]:
        started = time.perf_counter()
        report = self._run.step()
        self._cost_s += time.perf_counter() - started
        best = self._run.best
        if best is None:
            raise FloatingPointError(f"the start model is not finite ({self._run.stop_reason})")
        finished = self._run.finished
        due = time.monotonic() - self._saved_at >= self._shared.checkpoint_every_s
        return {
            "row": None if report is None else _row(report),
            "round": self._run.finetuner.round_number,
            "best": {"round": best.round, "steps": best.steps, "score": best.score, "feasible": best.feasible,
                     "violation": best.violation},
            "stop_reason": self._run.stop_reason,
            "failed": self._run.failed,
            "finished": finished,
            "cost_s": self._cost_s,
            "done": finished,
            "should_checkpoint": finished or due,
        }  # fmt: skip

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        folder = Path(checkpoint_dir)
        self._run.save(folder)
        if self._run.finished:
            write_outcome(folder, self._run)
        (folder / "trial.json").write_text(
            json.dumps({"cost_s": self._cost_s, "finished": self._run.finished})
        )
        self._saved_at = time.monotonic()

    def load_checkpoint(self, checkpoint: str | dict[str, Any] | None) -> None:
        folder = Path(str(checkpoint))
        self._run.load(folder)
        self._cost_s = float(json.loads((folder / "trial.json").read_text())["cost_s"])


def _row(report: Any) -> dict[str, Any]:
    return {
        "round": report.round, "steps": report.steps, "time_ms": int(time.time() * 1000), "score": report.score,
        "feasible": report.feasible, "select": report.select, "scalars": report.scalars,
    }  # fmt: skip
