"""100,000 feature vectors of 512 numbers with 1,000 classes: loaded and fine-tuned on within 2 GB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ROOT, environment

MOST_BYTES = 2 * 2**30
WRITE = """
import sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
g = np.random.default_rng(0)
centres = g.normal(size=(1000, 512)).astype(np.float32)
kind = pa.schema([("label", pa.int32()), ("features", pa.list_(pa.float32()))])
with pq.ParquetWriter(sys.argv[1], kind) as writer:
    for _ in range(10):
        labels = np.arange(10_000) % 1000
        rows = centres[labels] + 2 * g.standard_normal((10_000, 512), dtype=np.float32)
        lists = pa.ListArray.from_arrays(np.arange(0, 512 * 10_001, 512, dtype=np.int32), rows.ravel())
        writer.write_table(pa.table([pa.array(labels, pa.int32()), lists], schema=kind))
"""
RUN = """
import json, resource, sys, time
import torch
from selmix.run.start_model import Base
from selmix.config import FinetuneConfig
from selmix.data.parquet import ParquetConfig
from selmix.models import ModelConfig
from selmix.run.run import Run, SelectionRule
started = time.perf_counter()
data = ParquetConfig(sys.argv[1], feedback=10, select=10, test=10).load()
loaded = time.perf_counter() - started
model = ModelConfig("linear_head")
state = model.build(data.input_shape, data.num_classes, torch.Generator().manual_seed(0)).state_dict()
head = {"weight": state["head.weight"], "bias": state["head.bias"]}
config = FinetuneConfig(start="given", steps=60, refresh_every=20)
run = Run(data, Base(model, state, head), "min_recall", config, 0, SelectionRule("min_recall"))
rounds = []
while not run.finished:
    started = time.perf_counter()
    run.step()
    rounds.append(time.perf_counter() - started)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"peak": peak, "load_s": loaded, "round_s": rounds, "stop": run.stop_reason,
                  "train": len(data.train), "classes": data.num_classes, "width": data.input_shape[0]}))
"""


@pytest.mark.slow
def test_a_large_table_fits(tmp_path: Path) -> None:
    table = tmp_path / "features.parquet"
    subprocess.run([sys.executable, "-c", WRITE, str(table)], check=True, env=environment())
    # A shell between: a process begins with the peak of the one it was spawned from, and this one may be large.
    done = subprocess.run(
        ["sh", "-c", '"$0" "$@"; exit $?', sys.executable, "-c", RUN, str(table)],
        check=False, capture_output=True, text=True, cwd=ROOT, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["train"], told["classes"], told["width"]) == (70_000, 1000, 512)
    assert told["stop"] == "steps"
    assert len(told["round_s"]) == 4
    assert told["peak"] < MOST_BYTES, told
