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
    """Matrices of one round for the artifact, on the CPU; None where the round had none.

    Attributes:
        round: its number, from 0.
        steps: SGD steps done at its end.
        confusion: C of feedback at its start, shape (S, K).
        gain: G, shape (S, S).
        policy: P, shape (S, S).
        multipliers: of the worst-case objectives and of CVaR, shape (S,).
        select_recalls: recalls on select at its end, shape (K,).
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
        """Bytes of C, G and P, beside which the vectors do not count."""
        tensors = (self.confusion, self.gain, self.policy)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)


_MATRICES = ("confusion", "gain", "policy", "multipliers", "select_recalls")


def write_rounds(path: Path, rounds: Sequence[RoundMatrices]) -> None:
    """Write the rounds as a Parquet file: one row per round, matrices as flat float32 lists, row by row.

    The file is written aside and renamed.
    """
    # Imported in the functions that use it: fine-tuning itself needs torch and numpy only.
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, pa.Array] = {
        "round": pa.array([r.round for r in rounds], pa.int32()),
        "steps": pa.array([r.steps for r in rounds], pa.int32()),
    }
    for name in _MATRICES:
        values = [getattr(r, name) for r in rounds]
        flat = [None if v is None else v.float().flatten().numpy() for v in values]
        # The type is given because pyarrow cannot infer it where every round has None.
        columns[name] = pa.array(flat, pa.list_(pa.float32()))
    with written_aside(path) as aside:
        pq.write_table(pa.table(columns), aside, compression="zstd")


def read_rounds(path: Path, num_strata: int, num_classes: int) -> list[RoundMatrices]:
    """Read the rounds of a Parquet file, matrices in their shapes.

    Args:
        path: of the file.
        num_strata: S of the trial.
        num_classes: K of the trial.
    """
    import pyarrow.parquet as pq

    # A list in the file is flat: only S and K say which matrix it is.
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
