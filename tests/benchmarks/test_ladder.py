"""Comparison of rungs over seeds: which row is picked, and that a run is kept part by part."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks import ladder
from benchmarks.keel import to_parquet
from selmix.data.digits import DigitsConfig
from selmix.models import ModelConfig
from selmix.pretrain import PretrainSettings

KEEL = """@relation small
@attribute place {a, b}
@attribute size integer [0, 9]
@attribute class {one, two}
@inputs place, size
@outputs class
@data
a, 1, one
b, 3, two
"""


def row(method: str, rung: str, rank: float, value: float, seconds: float = 1.0) -> dict[str, Any]:
    return {
        "method": method, "rung": rung, "seed": 0, "rank": [0.0, rank], "seconds": seconds,
        "test": {"min_recall": value},
    }  # fmt: skip


def test_the_best_on_select_is_picked_from_a_rung_and_those_below() -> None:
    rows = [
        row("post_hoc_bias_search", "scores", 0.6, 0.1),
        row("plug_in", "scores", 0.5, 0.9),
        row("post_hoc_bias_search_both", "scores", 0.9, 0.9),  # fitted on select
        row("screened_head", "head", 0.6, 0.2),  # no better, and dearer
        row("last_layer_post_hoc", "head", 0.65, 0.2),
        row("selmix input 1", "finetune", 0.7, 0.3),
        row("uniform_mixup", "finetune", 0.8, 0.9),  # SelMix but for the policy
    ]
    picked = {rung: each["method"] for (rung, _), each in ladder.picks(rows).items()}
    assert picked == {
        "scores": "post_hoc_bias_search",
        "head": "last_layer_post_hoc",
        "finetune": "selmix input 1",
    }
    text = "\n".join(ladder.table("min_recall", rows))
    assert "head       20.0         adds +10.0" in text
    assert "finetune   30.0         adds +10.0" in text


def test_a_table_of_the_repository_becomes_features(tmp_path: Path) -> None:
    (tmp_path / "t.dat").write_text(KEEL)
    to_parquet(tmp_path / "t.dat", tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet").to_pydict()
    assert table == {"f0": [1.0, 0.0], "f1": [0.0, 1.0], "f2": [-1.0, 1.0], "label": ["one", "two"]}
    (tmp_path / "t.dat").write_text(KEEL + "a, 1\n")
    with pytest.raises(ValueError, match=r"t\.dat:10: must have 3 values, got 2"):
        to_parquet(tmp_path / "t.dat", tmp_path / "t.parquet")


@pytest.mark.slow
def test_a_small_run_is_kept_and_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ladder, "HEADS", 4)
    kept = tmp_path / "kept.jsonl"
    command = ["ladder.py", "gaussians", "--seeds", "0", "--steps", "20", "--keep", str(kept), "--aims"]
    monkeypatch.setattr(sys, "argv", [*command, "mean_recall_min_coverage"])
    ladder.main()
    text = capsys.readouterr().out
    assert "screened_head" in text
    assert "min coverage" in text
    (part,) = [json.loads(line) for line in kept.read_text().splitlines()]
    assert {each["rung"] for each in part["rows"]} == {"scores", "head", "finetune"}
    monkeypatch.setattr(
        ladder.Comparison, "part", lambda *_: pytest.fail("a part that is kept was run again")
    )
    ladder.main()
    assert capsys.readouterr().out == text
    monkeypatch.setattr(sys, "argv", [*command[:5], "40", *command[6:], "mean_recall_min_coverage"])
    with pytest.raises(SystemExit, match="must be of the same run"):
        ladder.main()


def test_unlabelled_samples_lend_partners_to_every_wide_row(capsys: pytest.CaptureFixture[str]) -> None:
    case = ladder.Case(
        lambda seed: DigitsConfig(seed=seed, unlabelled=4, largest_class=20, imbalance=5),
        ModelConfig("small_cnn"), ("features", "input"), "fixmatch_logit_adjusted", PretrainSettings(epochs=1),
    )  # fmt: skip
    rows = ladder.Comparison(case, references=False, steps=4).part(ladder.AIMS["min_recall"], 0, wide=True)
    # At the head's rate a backbone may diverge; such a row is said and left out.
    diverged = [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()]
    methods = [each["method"] for each in rows]
    assert not set(methods) & set(diverged)
    assert sorted(methods + diverged) == [
        "finetune_balanced 1", "finetune_logit_adjusted 1", "selmix features 0.1 pseudo",
        "selmix features 1", "selmix features 1 pseudo",
        "selmix input 0.1", "selmix input 0.1 pseudo", "selmix input 1", "selmix input 1 pseudo",
    ]  # fmt: skip
    assert {"selmix features 0.1 pseudo", "selmix input 0.1", "selmix input 0.1 pseudo"} <= set(methods)
