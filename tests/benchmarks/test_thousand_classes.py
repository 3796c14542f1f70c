"""The benchmark of many classes: what it writes, what it reads from logs and /proc, and a small run of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.thousand_classes import (
    Sampler,
    baselines,
    code_within,
    descendants,
    events,
    main,
    stage_of,
    write_features,
)
from orchestrator.records.folder import RunFolder
from selmix.baselines import baselines_for
from selmix.data.parquet import ParquetConfig


def test_features_are_clusters_of_unequal_spread(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    assert write_features(path, 4, 3, {"train": 300, "feedback": 3, "select": 4, "test": 5}) == 4 * 312
    config = ParquetConfig(str(path), split="split")
    data = config.load()
    assert data.train_counts.tolist() == [300] * 4
    assert (len(data.feedback), len(data.select), len(config.load_test())) == (12, 16, 20)
    spreads = sorted(float(data.train.whole()[data.train.labels == k].std(dim=0).mean()) for k in range(4))
    # .15: more than three standard errors of 300 samples.
    assert spreads == pytest.approx([0.7, 0.7 + 0.8 / 3, 0.7 + 1.6 / 3, 1.5], abs=0.15)
    again = tmp_path / "again.parquet"
    write_features(again, 4, 3, {"train": 300, "feedback": 3, "select": 4, "test": 5})
    other = ParquetConfig(str(again), split="split").load()
    assert torch.equal(other.train.whole(), data.train.whole())


def test_the_log_tells_the_stage(tmp_path: Path) -> None:
    log = tmp_path / "driver.log"
    assert stage_of(log) == "start, data"
    log.write_text(
        "2026-01-01T00:00:00+00:00 x: started\n2026-01-01T00:00:01+00:00 base model: linear_head, erm\n"
        "    of more lines\n"
    )
    assert stage_of(log) == "base model"
    with log.open("a") as file:
        file.write(
            "2026-01-01T00:00:07+00:00 baselines of head: 9 runs\n2026-01-01T00:00:09+00:00   1/19 x finished\n"
        )
    assert stage_of(log) == "head"
    assert [when.second for when, _ in events(log)] == [0, 1, 7, 9]


def test_memory_of_this_process_is_seen(tmp_path: Path) -> None:
    assert os.getpid() in set(descendants(os.getppid()))
    sampler = Sampler(os.getpid(), tmp_path / "none.log")
    sampler.sample()
    held = torch.ones(16, 2**20)
    sampler.sample()
    (peaks,) = sampler.peaks.values()
    assert len(held) == 16
    assert peaks.driver > 64
    assert peaks.total > 0.5 * peaks.driver
    assert peaks.cpu_s > 0


def test_a_process_is_stopped_at_its_limit_and_not_before() -> None:
    assert code_within(subprocess.Popen([sys.executable, "-c", "raise SystemExit(6)"]), 60.0) == 6
    sleeping = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    assert code_within(sleeping, 0.1) is None
    assert sleeping.poll() is not None


@pytest.mark.long
@pytest.mark.ray
def test_a_small_run_prints_every_stage_and_every_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "kept"
    options = ["--json", "--classes", "12", "--dim", "8", "--train", "8", "--heldout", "10", "--steps", "20"]
    assert main([*options, "--trials", "2", "--keep", str(home)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["stages"]) == [
        "start, data", "base model", "balanced heads", "scores", "head", "search", "replicates",
        "finetune and retrain",
    ]  # fmt: skip
    assert found["rows"] == 12 * 38
    assert all(stage["s"] >= 0 for stage in found["stages"].values())
    assert sum(stage["s"] for stage in found["stages"].values()) == pytest.approx(found["wall_s"], abs=2.0)
    assert found["stages"]["head"]["worker_mb"] > 100
    assert found["heads_s"] > 0
    assert set(found["baselines"]) == set(baselines_for(0))
    assert {row["state"] for row in found["baselines"].values()} == {"FINISHED"}
    assert baselines(RunFolder.local(home / "runs", "thousand_classes")) == found["baselines"]
