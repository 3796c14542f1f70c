"""Pins of rows of every rung: the shipped file is kept, and made again to the bit by its approach."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.pins.lock_file import broken_sections, read_pin
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import baseline_id
from orchestrator.results.judge import judged
from orchestrator.spec.schema import spec_from_resolved
from selmix.baselines import BASELINES
from selmix.weights import load_weights, state_digest
from tests.command import here
from tests.fakes.in_process import launch

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # matters of MLflow's, on a store that begins empty
    pytest.mark.usefixtures("few_baselines"),
]

TINY = (
    "search.num_trials=2", "selection.replicates=2", "selection.finalists=1", "pretrain.epochs=2",
    "parameters.steps.value=20",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep, of which nothing is pinned."""
    home = tmp_path_factory.mktemp("rows")
    assert launch(home / "runs", *TINY).code == 0
    return home


def let_win(home: Path, name: str) -> dict[str, Any]:
    """Judge the sweep as if this baseline, or SelMix, had the highest score; the winner as ``show`` has it."""
    folder = RunFolder.local(home / "runs", "smoke")
    for record in folder.load_baselines():
        record.score = 9.0 if record.name == name else -1.0
        if record.cross_fitted is not None:
            record.cross_fitted = replace(record.cross_fitted, score=record.score)
        folder.save_trial(record)
    folder.save(folder.results_path, judged(folder, spec_from_resolved(folder.load_spec())))
    shown: dict[str, Any] = here("show", "smoke", "--json", cwd=home).document["objectives"]["min_recall"]
    assert shown["winner"]["approach"] == name
    return shown


@pytest.mark.parametrize(
    "name",
    [
        "selmix",
        "untouched",
        "mislas_stage_two",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "post_hoc_logit_adjustment", "post_hoc_bias_search", "geometric_mean_head", "uniform_mixup",
                "selmix_post_hoc",
            )
        ),
    ],
)  # fmt: skip
def test_a_row_is_pinned_and_reproduced_to_the_bit(home: Path, name: str) -> None:
    shown = let_win(home, name)
    winner, verdict = shown["winner"], shown["verdict"]
    done = here("pin", "smoke", "--name", name.replace("_", "-"), cwd=home)
    assert done.code == 0, done.err
    pin = read_pin(home / "pins", name.replace("_", "-"))
    assert broken_sections(pin) == []

    # The file that ships is the best of the row's on select, and the one that lies beside the pin.
    folder = RunFolder.local(home / "runs", "smoke")
    file = folder.weights_files(winner["trial_id"])[winner["file"]]
    kept = load_weights(home / "pins" / f"{name.replace('_', '-')}.safetensors")
    assert state_digest(kept) == state_digest(load_weights(file)) == pin["digests"]["weights"]
    assert pin["digests"]["weights"] == winner["checkpoint_digest"]
    rung = BASELINES[name].rung if name in BASELINES else "finetune"
    assert (pin["row"]["approach"], pin["row"]["rung"], pin["row"]["seed"]) == (name, rung, winner["seed"])
    assert (pin["trial_id"], pin["is_winner"], pin["config"]) == (winner["trial_id"], True, winner["config"])
    assert pin["select"] == winner["select"]
    assert name != "uniform_mixup" or pin["config"]["policy"] == "uniform"
    by_seed = name == "selmix" or BASELINES[name].by_seed
    assert len(pin["replicates"]["seeds"]) == (2 if by_seed else 0)
    assert not by_seed or winner["seed"] in pin["replicates"]["seeds"]

    # The main verdict is shipped file against shipped file, the procedure's stands second; the same opponents as on
    # select.
    for part in ("test", "procedure"):
        judged_on_test = pin["verdict"][part]
        # Rows of more labels than the pinned one stand beside it, without a vote.
        more = (verdict or shown)["more_labels"]
        on_test = (judged_on_test or pin["verdict"])["more_labels"]
        assert (
            (more is None) == (on_test is None) == (set(winner["labels"]) >= {"train", "feedback", "select"})
        )
        if more is not None:
            assert on_test["rows"] == more["rows"] == list(on_test["differences"])
            assert on_test["differences"][on_test["rows"][0]] == on_test["difference"]
            assert on_test["is_higher"] == (on_test["difference"]["value"] < 0.0)
            assert not set(more["rows"]) & set(verdict["differences"] if verdict else [])
        if verdict is None:
            assert judged_on_test is None
            continue
        assert judged_on_test["against"] == verdict["against"]
        assert list(judged_on_test["differences"]) == list(verdict["differences"])
        assert not judged_on_test["optimistic"]
    if verdict is not None:
        metric, against = shown["metric"], verdict["against"]
        gap = pin["verdict"]["procedure"]["difference"]["value"]
        # Of a side with one model the mean is the model; without the seeds a pin has no means.
        ours = pin["replicates"][metric]["mean"] if by_seed else pin["test"][metric]["value"]
        if against in pin["baselines"]:
            theirs = pin["baselines"][against]["test"][metric]["value"]
            assert gap == pytest.approx(ours - theirs)
            if not BASELINES[against].by_seed:
                gap = pin["verdict"]["test"]["difference"]["value"]
                assert gap == pytest.approx(pin["test"][metric]["value"] - theirs)

    again = here("reproduce", pin["name"], "--json", cwd=home)
    assert again.code == 0, again.out
    assert again.document["same_stack"]
    compared = {row["what"]: row for row in again.document["compared"]}
    assert [what for what, row in compared.items() if not row["equal"]] == []
    assert compared["digests/weights"]["got"] == pin["digests"]["weights"]
    assert ("round" in compared) == (name == "selmix")
    listed = here("pins", "--json", cwd=home).document["pins"]
    assert pin["name"] in [row["name"] for row in listed]


def test_a_trial_that_is_no_winner_has_the_opponents_of_selmix(home: Path) -> None:
    shown = let_win(home, "post_hoc_bias_search")
    done = here("pin", "smoke", "--name", "chosen", "--trial", "min_recall/trial-001", cwd=home)
    assert done.code == 0, done.err
    pin = read_pin(home / "pins", "chosen")
    assert (pin["is_winner"], pin["row"]["approach"], pin["verdict"]["select"]) == (False, "selmix", None)
    assert pin["verdict"]["test"]["against"] == shown["selmix"]["against"]
    assert list(pin["verdict"]["test"]["differences"]) == list(shown["selmix"]["differences"])
    assert here("reproduce", "chosen", cwd=home).code == 0


def test_weights_of_a_baseline_that_are_gone_are_refused(home: Path, tmp_path: Path) -> None:
    let_win(home, "post_hoc_bias_search")
    folder = RunFolder.local(home / "runs", "smoke")
    path = folder.weights_files(baseline_id("min_recall", "post_hoc_bias_search"))[0]
    path.rename(tmp_path / "away")
    try:
        done = here("pin", "smoke", "--name", "gone", cwd=home)
    finally:
        (tmp_path / "away").rename(path)
    assert (done.code, done.out) == (4, "")
    assert "post_hoc_bias_search/weights" in done.err
    assert not (home / "pins" / "gone.yaml").exists()
