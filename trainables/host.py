"""Runs in this process, one after the other, for Tune, for a rank, or for a sweep without Ray."""

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
    """Host of one run at a time, with the data of a sweep.

    Args:
        shared: of the sweep.
        world: ranks that train together; the first one saves.
        gpu: of this worker; with None that of ``shared``.
    """

    def __init__(self, shared: Shared, world: World = ALONE, gpu: float | None = None) -> None:
        keep_to_share(shared.gpu if gpu is None else gpu)
        self._shared, self._data, self._world = shared, shared.on_device(), world

    def start(self, config: dict[str, Any]) -> None:
        """Start or resume a run; only the data of the last one are kept.

        Args:
            config: ``objective``, ``seed``, ``config`` (the flat settings) and, for a run that is resumed,
                ``resume_from`` (the address of a checkpoint folder).
        """
        # The number of threads decides bits, so every run sets it.
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
        """Run one round.

        Returns:
            Its report for Tune and the recorder; ``row`` is None where a value that is not finite ended the run.
        Raises:
            FloatingPointError: the start model is not finite.
        """
        started = time.perf_counter()
        report = self._run.step()
        self._cost_s += time.perf_counter() - started
        best = self._run.best
        # The start model is evaluated first, so that a run without any score failed on it.
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
            # Keys of Tune: the first ends the trial, the second saves it.
            "done": finished,
            "should_checkpoint": finished or due,
        }  # fmt: skip

    def save(self, checkpoint: str) -> None:
        """Write the state for :meth:`load`, and the outcome of a finished run."""
        folder = Path(checkpoint)
        self._run.save(folder)
        if self._run.finished:
            write_outcome(folder, self._run)
        # Last, and read by the driver: a finished run has its outcome beside it.
        (folder / "trial.json").write_text(
            json.dumps({"cost_s": self._cost_s, "finished": self._run.finished})
        )
        self._saved_at = time.monotonic()

    def load(self, checkpoint: str) -> None:
        """Resume from :meth:`save`."""
        folder = Path(checkpoint)
        self._run.load(folder)
        self._cost_s = float(json.loads((folder / "trial.json").read_text())["cost_s"])

    def close(self) -> None:
        """Do nothing: a run in this process holds nothing that outlives it."""


def _row(report: Any) -> dict[str, Any]:
    return {
        "round": report.round, "steps": report.steps, "time_ms": int(time.time() * 1000), "score": report.score,
        "feasible": report.feasible, "select": report.select, "scalars": report.scalars,
    }  # fmt: skip
