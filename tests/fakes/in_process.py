"""Sweeps in the process of the test, and their results without what a clock decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.command import SMOKE, Done, here

SMALL = ("search.num_trials=2", "selection.replicates=1", "selection.finalists=1")
"""Overrides of a sweep that is as small as one can be with a search and finalists."""


def launch(runs: Path, *overrides: str, file: Path = SMOKE, cwd: Path | None = None) -> Done:
    return here("launch", file, *overrides, "--in-process", "--runs", runs, cwd=cwd or runs.parent)


def show(runs: Path, sweep: str = "smoke") -> dict[str, Any]:
    return here("show", sweep, "--runs", runs, "--json").document


def table(document: dict[str, Any]) -> dict[str, Any]:
    """A result without clocks, costs and random identities."""
    clocks = {"cost_s", "spent_s", "lost_s", "started_ms", "ended_ms", "mlflow_run_id"}

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: bare(each) for key, each in value.items() if key not in clocks}
        return [bare(each) for each in value] if isinstance(value, list) else value

    return {key: bare(document[key]) for key in ("trials", "objectives", "rows")}
