"""Bounds in a whole sweep: every row shows them, and one that breaks one neither wins nor opposes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import here
from tests.fakes.in_process import SMALL, launch, show

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_a_bound_on_one_class_is_for_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = "constraints=[{metric: recall, class: gaussian5, at_least: 0.3, in: [search]}]"
    runs = tmp_path / "runs"
    assert launch(runs, *SMALL, bound, "search.num_trials=1").code == 0
    (result,) = show(runs)["objectives"].values()
    rows = result["baselines"]
    assert {row["state"] for row in rows.values()} == {"FINISHED"}
    broken = {name for name, row in rows.items() if row["select"]["recall/gaussian5"]["value"] < 0.3}
    # The base model never predicts the smallest class.
    assert "untouched" in broken
    assert not broken & {
        "post_hoc_bias_search",
        "last_layer_post_hoc",
        "plug_in",
        result["winner"]["approach"],
    }
    assert not broken & set(result["verdict"]["differences"])
    text = here("show", "smoke", "--runs", runs).out
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    header = next(line for line in text.splitlines() if "recall/gaussian5 >= 0.3, %" in line)
    assert "score" in header
    assert all((" !" in lines[name]) == (name in broken) for name in rows if name in lines)
    assert "! breaks this bound: neither winner nor opponent" in text
    monkeypatch.setenv("COLUMNS", "80")
    narrow = here("show", "smoke", "--runs", runs).out
    # Links and paths are never broken.
    whole = ("://", str(runs))
    assert max(len(line) for line in narrow.splitlines() if not any(each in line for each in whole)) <= 80
    marked = sum(line.startswith("  ") and " !  " in line for line in narrow.splitlines())
    assert marked == len(broken)


@pytest.mark.usefixtures("few_baselines")
def test_where_no_trial_meets_a_bound_a_row_that_does_is_the_winner(tmp_path: Path) -> None:
    # Trials that stay where they began: at the base model, which never predicts the smallest class.
    still = (
        "parameters.start={value: given}",
        "parameters.lr={value: 1e-9}",
        "parameters.steps.value=5",
        "pretrain.epochs=2",
    )
    bound = "constraints=[{metric: recall, class: gaussian5, at_least: 0.3, in: [search]}]"
    runs = tmp_path / "runs"
    done = launch(runs, *SMALL, *still, bound, "search.num_trials=1")
    assert done.code == 0, done.err
    assert "min_recall: no trial can win; " in done.err
    document = show(runs)
    (result,) = document["objectives"].values()
    assert (document["state"], document["problem"], result["feasible"], result["tied"]) == (
        "finished",
        None,
        False,
        [],
    )
    approach = result["winner"]["approach"]
    assert result["baselines"][approach]["select"]["recall/gaussian5"]["value"] >= 0.3
    assert "uniform_mixup" not in result["baselines"]
    assert {row["state"] for row in result["baselines"].values()} == {"FINISHED"}
    text = here("show", "smoke", "--runs", runs).out
    assert f"  winner {approach} " in text
    assert "no trial can win: none finished within the bounds on all its fresh seeds" in text
    assert here("pin", "smoke", "--name", "kept", "--runs", runs, cwd=tmp_path).code == 0
    # Where no row at all meets it there is none.
    bound = "constraints=[{metric: g_mean, at_least: 0.95, in: [search]}]"
    done = launch(tmp_path / "none", *SMALL, *still, bound, "search.num_trials=1")
    assert done.code == 6, done.err
    assert "no feasible trial for min_recall, and none of " in done.err
    # The rows are shown all the same, each with what it lacks.
    text = here("show", "smoke", "--runs", tmp_path / "none").out
    rows = show(tmp_path / "none")["objectives"]["min_recall"]["baselines"]
    lines = [line for line in text.splitlines() if " !  " in line and line.startswith("  ")]
    assert {line.split()[0].rstrip("*") for line in lines} == {"SelMix", *rows}
    assert "g_mean >= 0.95, %" in text
    assert "! breaks this bound: neither winner nor opponent" in text
