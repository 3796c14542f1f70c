"""Record of a screen: what was screened, what was promoted, and how good the choice is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.documents import SCHEMA_VERSION
from orchestrator.files import write_atomically
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import CrossFittedScore, Settings


@dataclass(frozen=True)
class PromotedConfig:
    """A promoted configuration.

    Attributes:
        id: ``OBJECTIVE/screen/0042``; the row of the table is that of its number.
        point: searched parameter -> value, of the trial that it begins as.
        config: flat settings of the screened run.
        score: on select.
        cross_fitted: its score over feedback and select, out of fold; None where there is none.
    """

    id: str
    point: Settings
    config: Settings
    score: float
    cross_fitted: float | None


@dataclass(frozen=True, kw_only=True)
class ScreenRecord:
    """Content of ``screen/OBJECTIVE.json``; the configurations lie in ``screen/OBJECTIVE.parquet``.

    Attributes:
        schema_version: version of the document.
        objective: of the sweep.
        num_configs: configurations that were screened.
        ended: number of configurations by the reason why they ended.
        promoted: the best, kept apart from each other, the best first.
        choice: score over feedback and select of the choice itself: each fold is judged by the configuration that the
            other folds choose.
        cost_s: seconds of work.
        improved: configurations with a round better than their start; None in records of an earlier version.
    """

    schema_version: int = SCHEMA_VERSION
    objective: str
    num_configs: int
    ended: dict[str, int]
    promoted: list[PromotedConfig]
    choice: CrossFittedScore
    cost_s: float
    improved: int | None = None


def write_table(folder: RunFolder, objective: str, table: Any) -> None:
    """Write the Arrow table of the screened configurations.

    Args:
        folder: of the sweep.
        objective: of the sweep.
        table: a row per configuration.
    """
    # Imported here: whoever only reads the record needs no pyarrow.
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, sink = folder.screen_table_path(objective), pa.BufferOutputStream()
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, sink)
    write_atomically(path, sink.getvalue().to_pybytes())
    folder.store.publish(path)
