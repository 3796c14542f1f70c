"""Runs in this process, one after the other: what a trial does, whoever asks for it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from selmix.config import FinetuneConfig
from selmix.parallel.world import ALONE, World
from selmix.run.run import Run
from trainables.outcome import write_outcome
from trainables.remote import fetched
from trainables.shared import Shared, keep_to_share


class RunHost:
    """Holds the data of a sweep, and one run at a time.

    Args:
        world: the ranks that train together; the first one saves. gpu: of this worker, where not that of ``shared``.
    """

    def __init__(self, shared: Shared, world: World = ALONE, gpu: float | None = None) -> None:
        keep_to_share(shared.gpu if gpu is None else gpu)
        self._shared, self._data, self._world = shared, shared.on_device(), world

    def start(self, config: dict[str, Any]) -> None:
        """Begin a run, or go on with one: nothing of the last one is kept but the data.

        Args:
            config: ``objective``, ``seed``, ``config`` (the flat settings) and, for a run that goes on,
                ``resume_from`` (a checkpoint folder).
        """
        torch.set_num_threads(self._shared.threads)
        objective = config["objective"]
        self._run = Run(
            self._data, self._shared.bases[objective], objective, FinetuneConfig(**config["config"]),
            seed=config["seed"], selection=self._shared.rules[objective], world=self._world,
        )  # fmt: skip
        self._cost_s = 0.0
        self._saved_at = time.monotonic()
        if config.get("resume_from"):
            with fetched(self._shared.filesystem, config["resume_from"]) as folder:
                self.load(str(folder))

    def step(self) -> dict[str, Any]:
        """One round, and what Tune is told of it."""
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

    def save(self, checkpoint: str) -> None:
        """Write what :meth:`load` needs, and the outcome of a run that is finished."""
        folder = Path(checkpoint)
        self._run.save(folder)
        if self._run.finished:
            write_outcome(folder, self._run)
        (folder / "trial.json").write_text(
            json.dumps({"cost_s": self._cost_s, "finished": self._run.finished})
        )
        self._saved_at = time.monotonic()

    def load(self, checkpoint: str) -> None:
        """Go on from :meth:`save`."""
        folder = Path(checkpoint)
        self._run.load(folder)
        self._cost_s = float(json.loads((folder / "trial.json").read_text())["cost_s"])

    def close(self) -> None:
        """Nothing outlives this process."""


def _row(report: Any) -> dict[str, Any]:
    return {
        "round": report.round, "steps": report.steps, "time_ms": int(time.time() * 1000), "score": report.score,
        "feasible": report.feasible, "select": report.select, "scalars": report.scalars,
    }  # fmt: skip
