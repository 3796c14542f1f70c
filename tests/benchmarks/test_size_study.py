"""The size study: its cells, what it draws, and a part of it that is run."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks import size_study
from benchmarks.size_study import Cell, load, misses, study, too_high
from selmix.statistics.constructions import CONSTRUCTIONS

CELLS = load(Path(size_study.__file__).parent / "size_study_cells.csv")

# Cells in which earlier limits failed: by half, by all, and by a little.
HARD = [
    Cell("macro_f1", "paired", 10, "24", "alike:0.99", correlation=0.0),
    Cell("min_precision", "single", 10, "24", "alike:0.9"),
    Cell("calibration_error", "single", 10, "24", "shift:0.0"),
    Cell("g_mean", "single", 10, "10", "weak5:0.05"),
    Cell("mean_recall", "single", 10, "5-500", "weak5:0.5"),
    Cell("cost", "paired", 10, "24", "alike:0.99", correlation=0.8),
    Cell("min_recall", "paired", 10, "24", "weak:0.6", other="moved", correlation=0.5),
    Cell("cvar_recall", "paired", 10, "24", "weak:0.3", other="moved", correlation=0.5),
    Cell("cvar_recall", "paired", 2, "100", "weak:0.3"),
    Cell("equalized_odds_gap", "paired", 2, "24", "weak:0.5", correlation=0.5),
    Cell("min_head_tail_recall", "paired", 30, "5-100", "spread:0.5:0.9", correlation=0.5),
    Cell("mean_recall", "paired", 10, "24", "alike:0.9", correlation=0.5, replicates=3),
]


@pytest.mark.parametrize("cell", HARD, ids=lambda cell: f"{cell.metric}-{cell.kind}")
def test_cells_in_which_earlier_limits_failed(cell: Cell) -> None:
    # 60 draws of a fixed seed: at a true 5 % more than 9 would miss with probability .001.
    assert misses(cell, 60, 0)[0] <= 9


OWN = ("benchmarks.own:fbeta", "benchmarks.own:mcc")


@pytest.mark.slow
def test_the_quick_subset_of_the_study_has_the_size_that_it_says() -> None:
    outcomes = {cell: study(cell, index, 200) for index, cell in enumerate(CELLS[::8])}
    assert [cell for cell, found in outcomes.items() if found.fails] == []
    # Together they err far less often than one in twenty.
    assert sum(found.rate for found in outcomes.values()) / len(outcomes) < 0.04


def test_every_metric_with_an_interval_has_cells_of_one_model_and_of_a_pair() -> None:
    assert {(cell.metric, cell.kind) for cell in CELLS} == {
        (key, kind)
        for key in (*(key for key, limits in CONSTRUCTIONS.items() if limits.has_interval), *OWN)
        for kind in ("single", "paired")
    }
    assert len(set(CELLS)) == len(CELLS)
    with_replicates = {cell.metric for cell in CELLS if cell.replicates > 1}
    assert {"mean_recall", "min_recall", "macro_f1"} <= with_replicates


@pytest.mark.parametrize("other", ["same", "moved"])
def test_what_is_drawn_has_the_recalls_and_the_correlation_of_the_cell(other: str) -> None:
    cell = Cell("min_recall", "paired", 4, "20000", "spread:0.5:0.8", other, correlation=0.6)
    ours, theirs = cell.draw(torch.Generator().manual_seed(0))
    # .015: more than four standard errors of 20,000 samples.
    for side, truth in (
        (ours[0], cell.recalls),
        (theirs[0], cell.recalls.roll(2 if other == "moved" else 0)),
    ):
        found = torch.stack([side.correct[side.labels == k].double().mean() for k in range(4)])
        assert torch.allclose(found, truth, atol=0.015)
        misses_of = side.predicted[~side.correct]
        assert torch.bincount(misses_of, minlength=4).min() > 0.15 * len(misses_of)
    if other == "same":
        hits = torch.stack([side[0].correct[side[0].labels == 0].double() for side in (ours, theirs)])
        assert float(torch.corrcoef(hits)[0, 1]) == pytest.approx(0.6, abs=0.03)


def test_models_of_a_pair_have_the_same_true_metric() -> None:
    moved = [cell for cell in CELLS if cell.other == "moved"]
    assert len(moved) > 20
    for cell in moved:
        twin = dataclasses.replace(cell)
        vars(twin)["recalls"] = cell.recalls.roll(len(cell.recalls) // 2)  # a cached property, filled by hand
        assert twin.true_value == pytest.approx(cell.true_value), cell


def test_the_truth_is_the_metric_of_what_is_expected() -> None:
    assert Cell("mean_recall", "single", 10, "24", "weak:0.5").true_value == pytest.approx(
        (0.5 + 9 * 0.95) / 10
    )
    assert Cell("min_recall", "single", 10, "24", "weak5:0.3").true_value == pytest.approx(0.3)
    assert Cell("calibration_error", "single", 2, "24", "shift:0.1").true_value == pytest.approx(0.1)
    # Ten classes alike: 24 predictions of each, of which .9 are hits.
    assert Cell("min_precision", "single", 10, "24", "alike:0.9").true_value == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("kind", "wrong", "fails"), [("paired", 0, False), ("paired", 120, False), ("paired", 140, True),
                                 ("single", 140, False), ("single", 190, True)]
)  # fmt: skip
def test_a_rate_fails_by_its_lower_limit(kind: str, wrong: int, fails: bool) -> None:
    assert too_high(Cell("min_recall", kind, 2, "5", "alike:0.5"), wrong, 2000) == fails


def test_a_rate_that_looks_too_high_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the fresh repetitions count."""
    calls: list[tuple[int, int]] = []

    def drawn(cell: Cell, repetitions: int, seed: int) -> tuple[int, float]:
        calls.append((repetitions, seed))
        return (200 if len(calls) == 1 else 900), 0.1

    monkeypatch.setattr(size_study, "misses", drawn)
    found = study(Cell("min_recall", "paired", 2, "5", "alike:0.5"), 7, None)
    assert calls == [(2000, 14), (20_000, 15)]
    assert (found.rate, found.repetitions, found.fails) == (0.045, 20_000, False)
    calls.clear()
    assert study(Cell("min_recall", "paired", 2, "5", "alike:0.5"), 7, 2000).fails
    assert len(calls) == 1


def test_the_program_writes_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells, out = tmp_path / "cells.csv", tmp_path / "out.csv"
    cells.write_text(
        "metric,kind,classes,samples,truth,other,correlation,replicates,repetitions\n"
        "min_recall,single,2,5,alike:0.5,same,0.0,1,\nmean_recall,paired,2,5,alike:0.5,same,0.5,1,\n"
    )
    monkeypatch.setattr(
        "sys.argv",
        [
            "size_study",
            "--cells",
            str(cells),
            "--out",
            str(out),
            "--jobs",
            "1",
            "--repetitions",
            "5",
            "--only",
            "min",
        ],
    )
    assert size_study.main() == 0
    (row,) = csv.DictReader(out.read_text().splitlines())
    assert (row["metric"], row["repetitions"], row["misses_percent"], row["fails"]) == (
        "min_recall", "5", "0.00", "",
    )  # fmt: skip
    assert "0 of 1 cells fail" in capsys.readouterr().err


def test_scores_are_drawn_as_the_cell_says() -> None:
    """Two classes D apart: the area has a closed form, and true probabilities are calibrated."""
    cell = Cell("auroc", "paired", 2, "20000", "apart:1:1", correlation=0.6)
    # The difference of both scores is normal with mean +-1 and variance 2.
    expected = float(torch.special.ndtr(torch.tensor(1.0, dtype=torch.float64)))
    assert cell.true_value == pytest.approx(expected, abs=0.003)  # three errors of 400,000 samples
    ours, theirs = cell.draw(torch.Generator().manual_seed(0))
    logs = [side[0].log_probabilities for side in (ours, theirs)]
    assert logs[0] is not None
    assert logs[1] is not None
    right = float(ours[0].correct.double().mean())
    assert float(ours[0].confidence.mean()) == pytest.approx(right, abs=0.01)
    odds = torch.stack([each[:20000, 1] - each[:20000, 0] for each in logs])
    assert float(torch.corrcoef(odds)[0, 1]) == pytest.approx(0.6, abs=0.03)
    surer = Cell("brier_score", "single", 2, "20000", "apart:1:3").draw(torch.Generator().manual_seed(0))[0][
        0
    ]
    assert float(surer.confidence.mean()) > right + 0.05
