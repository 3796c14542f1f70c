"""Any row of the table is pinned by its name, and made again to the bit; what cannot be is said in one line."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.pins.lock_file import broken_sections, read_pin
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import baseline_id
from orchestrator.results.judge import judged
from orchestrator.spec.schema import spec_from_resolved
from selmix.baselines import BASELINES
from selmix.data import write_table
from tests.command import here
from tests.conftest import catalogue_of
from tests.fakes.in_process import launch

pytestmark = pytest.mark.filterwarnings("ignore")  # matters of MLflow's, on a store that begins empty

SWEEP = """
version: 1
name: rows
data: {name: parquet, path: table.parquet, split: split, group: group}
model: {name: linear_head}
pretrain: {recipe: erm, epochs: 3}
objectives: [min_recall]
parameters: {lr: {min: 0.003, max: 0.1}, steps: {value: 20}}
search: {num_trials: 3}
selection: {replicates: 2, finalists: 1}
"""
FEW = {
    "untouched", "post_hoc_logit_adjustment", "thresholds_by_group", "balanced_head", "mislas_stage_two",
    "uniform_mixup", "retrained_logit_adjusted",
}  # fmt: skip
"""Of every rung; all others are pinned in test_every_row."""


def write_rows(path: Path) -> None:
    """Three classes of a long tail, in two groups, with few enough samples for every baseline to take no time."""
    draw = np.random.default_rng(0)
    sizes = {"train": (60, 40, 25), "feedback": (30, 30, 30), "select": (48, 48, 48), "test": (48, 48, 48)}
    labels, groups, splits = [], [], []
    for split, counts in sizes.items():
        for label, count in enumerate(counts):
            labels += [label] * count
            groups += ["ab"[k % 2] for k in range(count)]
            splits += [split] * count
    spread = 1 + 0.3 * (np.array(groups) == "b")
    inputs = 1.2 * np.eye(3, 4)[labels] + spread[:, None] * draw.normal(size=(len(labels), 4))
    write_table(path, inputs.astype("float32"), labels, groups=groups, split=splits)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a sweep of some approaches."""
    with catalogue_of(FEW.__contains__):
        yield launched(tmp_path_factory.mktemp("named"))


def launched(home: Path, *overrides: str) -> Path:
    """The folder, with a sweep that has a row of every approach that there is; of a screen's with a screen."""
    write_rows(home / "table.parquet")
    (home / "rows.yaml").write_text(SWEEP)
    assert launch(home / "runs", *overrides, file=home / "rows.yaml", cwd=home).code == 0
    return home


@pytest.fixture(scope="module")
def shown(home: Path) -> dict[str, Any]:
    document: dict[str, Any] = here("show", "rows", "--json", cwd=home).document
    return document


def pin(home: Path, *arguments: str, code: int = 0) -> str:
    """What `selmix pin rows` says on stderr."""
    done = here("pin", "rows", *arguments, cwd=home)
    assert done.code == code, done.err
    return done.err


def check_row(home: Path, shown: dict[str, Any], name: str) -> None:
    """Pin a row by its name, and make it again: to the bit, against the opponents of the rule."""
    pin(home, "--name", name, "--row", name)
    document, result = read_pin(home / "pins", name), shown["objectives"]["min_recall"]
    assert broken_sections(document) == []
    row = next(
        each for each in shown["rows"]
        if each["id"] == (result["selmix"]["row"] if name == "selmix" else baseline_id("min_recall", name))
    )  # fmt: skip
    assert document["row"]["approach"] == name
    assert document["row"]["rung"] == row["rung"]
    assert document["row"]["seed"] in (row["seeds"] or [0]) or name == "selmix"
    assert document["is_winner"] == (result["winner"]["approach"] == name)
    # What `load(...)` and `predictions(...)` of the Python API read.
    folder = RunFolder.local(home / "runs", "rows")
    stored = folder.load_test_predictions(document["trial_id"], 0)
    if stored is None:  # of several seeds the one that ships
        stored = folder.load_test_predictions(document["trial_id"], 1)
    assert stored is not None
    recalls = [float((stored["predicted"] == k)[stored["labels"] == k].mean()) for k in range(3)]
    assert min(recalls) == pytest.approx(document["test"]["min_recall"]["value"])

    # The opponents are fixed by one rule for every row: other approaches of no more labels that may win themselves.
    may_win = {
        each["approach"]: set(each["labels"]) for each in shown["rows"]
        if not each["id"].startswith("min_recall/trial") and not BASELINES[each["approach"]].reference
    }  # fmt: skip
    may_win["selmix"] = {"train", "feedback", "select"}
    opponents = {
        other for other, labels in may_win.items()
        if other != name and labels <= set(row["labels"])
        if not (name == "selmix" and (BASELINES[other].contains_winner or BASELINES[other].by_policy_alone))
        if not (other == "selmix" and name in BASELINES and BASELINES[name].by_policy_alone)
    }  # fmt: skip
    for split in ("select", "test", "procedure"):
        verdict = document["verdict"][split]
        assert set([] if verdict is None else verdict["differences"]) == opponents
    if name == "selmix":
        assert document["verdict"]["select"]["differences"] == result["selmix"]["differences"]

    again = here("reproduce", name, "--json", cwd=home)
    assert again.code == 0, again.out
    assert again.document["same_stack"]
    assert [each["what"] for each in again.document["compared"] if not each["equal"]] == []


@pytest.mark.parametrize("name", ["selmix", *sorted(FEW)])
def test_an_approach_is_pinned_and_made_again(home: Path, shown: dict[str, Any], name: str) -> None:
    check_row(home, shown, name)


def test_a_trial_stands_for_its_seeds_where_it_has_them(home: Path, shown: dict[str, Any]) -> None:
    final = shown["objectives"]["min_recall"]["selmix"]["row"]
    other = next(
        each["trial_id"] for each in shown["trials"] if each["kind"] == "trial" and each["trial_id"] != final
    )
    pin(home, "--name", "trial", "--row", other.partition("/")[2])
    assert read_pin(home / "pins", "trial")["trial_id"] == other
    pin(home, "--name", "seed", "--row", f"{final}/seed-1")
    assert read_pin(home / "pins", "seed")["trial_id"] == f"{final}/seed-1"
    assert here("reproduce", "seed", cwd=home).code == 0
    pin(home, "--name", "final", "--row", final)
    kept = read_pin(home / "pins", "final")
    assert kept["trial_id"].startswith(f"{final}/seed-")
    assert len(kept["replicates"]["seeds"]) == 2


def test_a_row_that_did_not_win_is_marked_in_the_list(home: Path, tmp_path: Path) -> None:
    pin(home, "--name", "loser", "--row", "untouched", "--pins", str(tmp_path))
    (listed,) = here("pins", "--json", "--pins", tmp_path).document["pins"]
    assert (listed["trial_id"], listed["is_winner"]) == ("min_recall/baseline/untouched", False)
    assert "not the winner of its sweep" in here("pins", "--pins", tmp_path).out


def test_a_row_of_files_that_are_used_together_says_so_and_is_not_recommended(home: Path) -> None:
    """A mixture of two classifiers has two files for one run: no pin holds it, and nothing may recommend it."""
    folder = RunFolder.local(home / "runs", "rows")
    row = "min_recall/baseline/mislas_stage_two"
    added = [
        shutil.copyfile(path(row, 0), path(row, 1)) for path in (folder.weights_path, folder.predictions_path)
    ]
    before = folder.load_trial(row)
    try:
        record = folder.load_trial(row)
        record.score = 9.0
        folder.save_trial(record)
        judged_anew = judged(folder, spec_from_resolved(folder.load_spec())).objectives["min_recall"]
        said = pin(home, "--name", "no", "--row", "mislas_stage_two", code=2)
    finally:
        folder.save_trial(before)
        for path in added:
            path.unlink()
    assert judged_anew.winner is not None
    assert judged_anew.winner.row != row
    assert row not in [each for choice in judged_anew.rungs for each in (*choice.rows, choice.leader)]
    assert said == (
        f"selmix: --row: {row} cannot be pinned: a pin holds one model, and this row is 2 files that are used "
        "together\n"
    )


def test_what_the_first_line_speaks_for_is_pinned_by_the_command_below(home: Path) -> None:
    """The verdict of these data names a cheaper row beside the winner: both commands are there, and both work."""
    text = here("show", "rows", cwd=home).out
    cheaper = re.search(r"not told apart from (\w+), which is cheaper", text.splitlines()[0])
    assert cheaper is not None
    (command,) = [line.strip() for line in text.splitlines() if "--row" in line]
    command, _, purpose = command.partition(": ")
    assert purpose == f"{cheaper[1]} instead, which is cheaper"
    words = command.replace("NAME", "advised").split()[1:]
    assert here(*words, "--force", cwd=home).code == 0
    assert read_pin(home / "pins", "advised")["row"]["approach"] == cheaper[1]


def test_a_name_of_no_row_is_answered_with_those_that_there_are(home: Path) -> None:
    said = pin(home, "--name", "no", "--row", "mislas_stage_tow", code=8)
    assert said.count("\n") == 1
    assert said.startswith(
        "selmix: --row: rows has no row 'mislas_stage_tow'; did you mean mislas_stage_two? "
    )
    assert all(name in said for name in ("selmix", *BASELINES, "trial-000", "trial-000/seed-1"))
    said = pin(home, "--name", "no", "--row", "selmix", "--trial", "min_recall/trial-000", code=2)
    assert said == "selmix: --row: cannot stand beside --trial; --row names trials too\n"
    assert not (home / "pins" / "no.yaml").exists()


def test_a_row_that_failed_says_why_it_cannot_be_pinned(home: Path) -> None:
    folder = RunFolder.local(home / "runs", "rows")
    before = folder.load_trial("min_recall/baseline/thresholds_by_group")
    record = folder.load_trial("min_recall/baseline/thresholds_by_group")
    record.state, record.error = "FAILED", "ValueError: no"
    folder.save_trial(record)
    said = pin(home, "--name", "no", "--row", "thresholds_by_group", code=2)
    folder.save_trial(before)
    assert said == (
        "selmix: --row: min_recall/baseline/thresholds_by_group cannot be pinned: it is FAILED: ValueError: no\n"
    )
