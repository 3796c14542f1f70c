"""A sweep that ends at a cheap rung, in the process of its driver, and goes on from there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from orchestrator.records.folder import RunFolder
from tests.command import SMOKE, here
from tests.fakes.in_process import SMALL

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # matters of MLflow's, on a store that begins empty
    pytest.mark.usefixtures("few_baselines"),
]


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with a sweep that ended with its heads."""
    runs = tmp_path_factory.mktemp("climbed") / "runs"
    done = here("launch", SMOKE, *SMALL, "--until", "head", "--runs", runs, cwd=runs.parent)
    assert done.code == 0, done.err
    # On one machine nothing of these rungs needs Ray.
    assert re.search(r"smoke: started in (\d+ processes of this machine|this process), driven by", done.err)
    assert "min_recall: rung scores: best " in done.err
    assert "min_recall: rung head: best " in done.err
    # The command that climbs on, as it was typed, without --until.
    typed = shlex.join(["selmix", "launch", str(SMOKE), *SMALL])
    assert f"{typed} --runs {runs}: go on with finetune and retrain" in done.err
    return runs


def test_the_best_of_the_cheap_rungs_is_judged_and_pinned(climbed: Path, tmp_path: Path) -> None:
    document = here("show", "smoke", "--runs", climbed, "--json").document
    assert (document["state"], document["trials"]) == ("finished", [])
    result = document["objectives"]["min_recall"]
    assert result["winner"]["rung"] in ("scores", "head")
    assert result["verdict"]["outcome"] in ("better", "tied", "worse", "undecided")
    assert {row["rung"] for row in document["rows"]} == {"scores", "head"}
    scores, head = result["climb"]
    assert (scores["rung"], scores["over"], scores["added"]) == ("scores", None, None)
    assert (head["rung"], head["over"]) == ("head", scores["wins"])
    assert head["wins"] == result["winner"]["row"]
    where = ("--runs", climbed, "--pins", tmp_path)
    assert here("pin", "smoke", "--name", "cheap", *where).code == 0
    assert here("reproduce", "cheap", *where).code == 0


def test_what_says_nothing_without_trials_is_left_out(climbed: Path) -> None:
    text = here("show", "smoke", "--runs", climbed).out
    assert "no trial can win" not in text
    assert not any(line.startswith(("search ", "search space")) for line in text.splitlines())
    assert "runs           baselines of scores, head, and not yet finetune, retrain; no trials" in text
    assert f"selmix launch FILE --runs {climbed}, the same file: go on with finetune and retrain" in text
    asked = here("pin", "smoke", "--row", "selmix", "--name", "none", "--runs", climbed)
    assert asked.code == 8
    assert "has no row 'selmix'; there are " in asked.err
    assert "there are selmix" not in asked.err


def test_what_is_finished_is_not_climbed_again(climbed: Path) -> None:
    for until in (("--until", "head"), ("--until", "scores")):
        done = here("launch", SMOKE, *SMALL, *until, "--runs", climbed, cwd=climbed.parent)
        assert (done.code, "smoke is finished" in done.err) == (0, True)


def test_a_rung_that_the_sweep_does_not_have_is_refused(tmp_path: Path) -> None:
    done = here("launch", SMOKE, "rungs=[scores, head]", "--until", "finetune", "--runs", tmp_path / "runs")
    assert done.code == 2
    assert "--until must be a rung of the sweep, scores, head, got finetune" in done.err


@pytest.mark.slow
def test_launching_without_until_goes_on_from_there(climbed: Path) -> None:
    folder = RunFolder.local(climbed, "smoke")
    before = {r.trial_id: r.weights_digest for r in folder.load_baselines()}
    done = here("launch", SMOKE, *SMALL, "--in-process", "--runs", climbed, cwd=climbed.parent)
    assert done.code == 0, done.err
    document = here("show", "smoke", "--runs", climbed, "--json").document
    result = document["objectives"]["min_recall"]
    assert [step["rung"] for step in result["climb"]] == ["scores", "head", "finetune"]
    assert {row["rung"] for row in document["rows"]} == {"scores", "head", "finetune", "retrain"}
    after = {r.trial_id: r.weights_digest for r in folder.load_baselines()}
    assert before.items() <= after.items()
    assert result["climb"][-1]["wins"] == result["winner"]["row"]
