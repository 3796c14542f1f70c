"""The artifact of a trial: C, G, P, multipliers and per-class recalls of every round, as a Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selmix.files import written_aside


@dataclass(frozen=True)
class RoundMatrices:
    """What one round leaves for the artifact; matrices on the CPU, None where the round had none.

    Attributes:
        round, steps: of the round.
        confusion: C of feedback at its start, shape (S, K). gain, policy: shape (S, S).
        multipliers: shape (S,). select_recalls: recalls on select at its end, shape (S,).
    """

    round: int
    steps: int
    confusion: Tensor | None
    gain: Tensor | None
    policy: Tensor | None
    multipliers: Tensor | None
    select_recalls: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of the large ones."""
        tensors = (self.confusion, self.gain, self.policy)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)


_MATRICES = ("confusion", "gain", "policy", "multipliers", "select_recalls")


def write_rounds(path: Path, rounds: Sequence[RoundMatrices]) -> None:
    """Write the rounds as a Parquet file: one row a round, matrices as flat float32 lists, row by row.

    The file is written aside and renamed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, pa.Array] = {
        "round": pa.array([r.round for r in rounds], pa.int32()),
        "steps": pa.array([r.steps for r in rounds], pa.int32()),
    }
    for name in _MATRICES:
        values = [getattr(r, name) for r in rounds]
        flat = [None if v is None else v.float().flatten().numpy() for v in values]
        columns[name] = pa.array(flat, pa.list_(pa.float32()))
    with written_aside(path) as aside:
        pq.write_table(pa.table(columns), aside, compression="zstd")


def read_rounds(path: Path, num_strata: int, num_classes: int) -> list[RoundMatrices]:
    """The rounds of a Parquet file, matrices in their shapes.

    Args:
        num_strata, num_classes: S and K of the trial.
    """
    import pyarrow.parquet as pq

    shapes = {
        "confusion": (num_strata, num_classes), "gain": (num_strata, num_strata),
        "policy": (num_strata, num_strata), "multipliers": (-1,), "select_recalls": (-1,),
    }  # fmt: skip
    rounds = []
    for row in pq.read_table(path).to_pylist():
        matrices: dict[str, Any] = {
            name: None if row[name] is None else torch.tensor(row[name]).view(shape)
            for name, shape in shapes.items()
        }
        rounds.append(RoundMatrices(round=row["round"], steps=row["steps"], **matrices))
    return rounds
