"""Tune trainable around one fine-tuning run: one ``step()`` is one round."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ray import tune

from trainables.host import RunHost
from trainables.ranks import RankGroup, RankPlan
from trainables.shared import Shared


class FinetuneTrainable(tune.Trainable):
    """Fine-tuning of ``config["config"]`` under ``config["objective"]`` from ``config["seed"]``.

    ``config`` holds the sweep's own ``trial_id``, ``takes`` (``cpu`` and ``gpu`` of a worker, where they differ from
    those of all runs) and the keys of :meth:`trainables.host.RunHost.start`. The run is in this process where
    ``shared`` is given, and on the workers of ``ranks`` otherwise; both are reused by runs that take the same.
    """

    def setup(
        self, config: dict[str, Any], shared: Shared | None = None, ranks: RankPlan | None = None
    ) -> None:
        """Start the first run.

        Args:
            config: see the class.
            shared: of the sweep, for runs in this process.
            ranks: of a trial, for runs on several workers.
        Raises:
            ValueError: neither ``shared`` nor ``ranks``.
        """
        takes = config.get("takes") or {}
        if ranks is not None:
            self._host: RunHost | RankGroup = RankGroup(replace(ranks, **takes))
        elif shared is not None:
            self._host = RunHost(shared, gpu=takes.get("gpu"))
        else:
            raise ValueError("FinetuneTrainable needs `shared` or `ranks`; wrap it with tune.with_parameters")
        self._host.start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start another run in the same processes; only the data of the last one are kept."""
        self._host.start(new_config)
        # Tune fails a trial on a reused actor that does not confirm its reset.
        return True

    def step(self) -> dict[str, Any]:
        return self._host.step()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self._host.save(checkpoint_dir)

    def load_checkpoint(self, checkpoint: str | dict[str, Any] | None) -> None:
        self._host.load(str(checkpoint))

    def cleanup(self) -> None:
        self._host.close()
