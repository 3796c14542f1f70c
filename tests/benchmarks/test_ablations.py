"""The benchmark of ablations: its statistics against scipy, its arms against the settings."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise

import pytest
import torch
from scipy.stats import ttest_1samp

from benchmarks.ablations import diverged_lines, gaps_of, identity, measured, report, row_of, tasks
from benchmarks.axes import SETTINGS, axes, configured
from benchmarks.contrast import family, t_interval


def gaps(mean: float, seed: int, count: int = 12) -> list[float]:
    noise = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [mean + 0.1 * float(each) for each in noise]


def test_an_interval_is_that_of_scipy() -> None:
    each = gaps(0.05, 0)
    expected = ttest_1samp(each, 0.0).confidence_interval(0.95)
    assert t_interval(each) == pytest.approx((statistics.mean(each), expected.low, expected.high))
    assert t_interval([0.2]) == (0.2, -math.inf, math.inf)


@pytest.mark.parametrize("seed", range(20))
def test_a_family_is_corrected_by_holm(seed: int) -> None:
    """The textbook form: p in ascending order against alpha / (m - rank), stopping at the first that is above it."""
    asked = {f"{k}": gaps(mean, 10 * seed + k) for k, mean in enumerate((0.0, 0.03, 0.06, -0.07, 0.09))}
    p = {name: float(ttest_1samp(each, 0.0).pvalue) for name, each in asked.items()}
    expected = dict.fromkeys(asked, "tied")
    for rank, name in enumerate(sorted(asked, key=p.__getitem__)):
        if p[name] >= 0.05 / (len(asked) - rank):
            break
        expected[name] = "better" if statistics.mean(asked[name]) > 0 else "worse"
    told = family(asked)
    assert {name: contrast.outcome for name, contrast in told.items()} == expected
    for name, contrast in told.items():
        assert (contrast.better, contrast.tied, contrast.worse) == (
            sum(g > 0 for g in asked[name]), 0, sum(g < 0 for g in asked[name]),
        )  # fmt: skip


def test_no_spread() -> None:
    told = family({"same": [0.0] * 5, "shifted": [0.1] * 5, "one seed": [0.3]})
    assert (told["same"].outcome, told["same"].tied) == ("tied", 5)
    assert told["shifted"].outcome == "better"
    assert told["one seed"].outcome == "tied"


def test_a_side_of_several_arms_is_their_mean() -> None:
    by_arm = {"a": [0.1, 0.4], "b": [0.3, 0.2], "c": [0.1, 0.1]}
    assert gaps_of(by_arm, ("a", "b"), ("c",)) == pytest.approx([0.1, 0.2])
    assert gaps_of(by_arm, ("a",), ("a",)) == [0.0, 0.0]


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_contrast_names_arms_and_every_arm_is_a_setting(setting: str) -> None:
    for axis in axes(setting).values():
        for changes in axis.arms.values():
            configured(SETTINGS[setting].config, changes)
        for contrasts in axis.families.values():
            for ours, theirs in contrasts.values():
                assert {*ours, *theirs} <= set(axis.arms)
                assert not set(ours) & set(theirs)


def test_a_run_that_two_axes_ask_for_is_made_once() -> None:
    known = axes("product")
    asked = tasks("product", "min_recall", [known["policy"], known["mixup_layer"]], [0, 1])
    arms = len(known["policy"].arms) + len(known["mixup_layer"].arms) - 1  # the reference is one run
    assert len(asked) == 2 * arms
    assert identity("product", "min_recall", 0, {"coefficient_min": 1.0}) == identity(
        "product", "min_recall", 0, {"coefficient_min": 1.0, "mixup_layer": "input"}
    )
    assert len({*asked, identity("product", "min_recall", 0, {"lr": 0.5})}) == len(asked) + 1


def test_a_report_pairs_by_seed() -> None:
    axis = axes("product")["gain_formula"]
    rows = [
        {"id": name, "setting": "product", "objective": "min_recall", "seed": seed, "changes": changes,
         "test": dict.fromkeys(("min_recall", "mean_recall", "g_mean"),
                               0.5 + 0.1 * seed - (0.2 + 0.01 * seed) * (changes["gain_formula"] != "exact"))}
        for name, (_, _, seed, changes) in tasks("product", "min_recall", [axis], [2, 0, 1]).items()
    ]  # fmt: skip
    assert measured(rows, axis, "min_recall")["exact"] == pytest.approx([0.7, 0.5, 0.6])
    lines, figures = report("gain_formula", axis, rows)
    assert figures["gain_formula/min_recall/minus exact/released_code/mean"] == pytest.approx(-0.21)
    assert figures["gain_formula/min_recall/minus exact/released_code/worse"] == 3
    told = next(line for line in lines if "released_code" in line and "[" in line)
    assert told.endswith("0/0/3  worse")
    assert "-21.0 [-23.5, -18.5]" in told
    assert all(a != b for a, b in pairwise(lines))


def test_a_run_that_diverges_is_told_and_judged_by_what_it_was_before() -> None:
    row = row_of("gaussians", "min_recall", 0, {"lr": 1e38, "steps": 40})
    assert row["stop_reason"].startswith("nonfinite")
    assert 0.0 < row["test"]["min_recall"] < 1.0
    whole = row | {"stop_reason": "steps"}
    (line,) = diverged_lines([row, whole])
    assert f"seed 0: {row['stop_reason']}, judged by its best round before, {row['round']}" in line
