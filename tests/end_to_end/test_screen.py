"""A sweep with a screen, in the process of its driver: what it ranks, what it promotes, and what becomes of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.records.folder import RunFolder
from orchestrator.records.screen import ScreenRecord
from tests.command import SMOKE, here
from tests.fakes.in_process import launch, show

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # matters of MLflow's, on a store that begins empty
    pytest.mark.usefixtures("few_baselines"),
]

SCREENED = (
    "screen.num_configs=10", "screen.promote=2", "screen.generations=2", "screen.folds=3", "search.num_trials=3",
    "selection.replicates=1", "selection.finalists=1", "rungs=[scores, head, finetune]",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("screened") / "runs"
    done = launch(runs, *SCREENED)
    assert done.code == 0, done.err
    assert "screened 10 configurations" in done.err
    return runs


def record(runs: Path) -> ScreenRecord:
    folder = RunFolder.local(runs, "smoke")
    found = folder.load(folder.screen_path("min_recall"), ScreenRecord)
    assert found is not None
    return found


def test_every_configuration_is_a_row_of_one_table(runs: Path) -> None:
    table = pq.read_table(RunFolder.local(runs, "smoke").screen_table_path("min_recall")).to_pylist()
    assert [row["id"] for row in table] == [f"{number:04d}" for number in range(10)]
    assert all(row["stop_reason"] for row in table)
    places = {row["promoted"]: row["id"] for row in table if row["promoted"] is not None}
    assert [f"min_recall/screen/{places[k]}" for k in range(2)] == [each.id for each in record(runs).promoted]
    # The first is the defaults of the search space.
    assert table[0]["policy"] == "softmax"


def test_what_is_promoted_is_trained_again_and_searched_first(runs: Path) -> None:
    document = show(runs)
    promoted = record(runs).promoted
    (head,) = [row for row in document["rows"] if row["approach"] == "selmix_head"]
    assert (head["rung"], head["state"], len(head["seeds"])) == ("head", "FINISHED", 1)
    assert head["cross_fitted"]["score"] == record(runs).choice.score
    summary = document["objectives"]["min_recall"]["screen"]
    assert (summary["num_configs"], summary["promoted"]) == (10, [each.id for each in promoted])
    assert set(summary["trials"]) <= set(summary["promoted"])
    points = [each.point for each in promoted if each.id != "min_recall/screen/0000"]
    trials: list[dict[str, Any]] = [t for t in document["trials"] if t["kind"] == "trial"]
    searched = [{name: trial["config"][name] for name in points[0]} for trial in trials]
    assert searched[1 : 1 + len(points)] == points


def test_the_promoted_row_is_pinned_and_made_again(runs: Path, tmp_path: Path) -> None:
    where = ("--runs", runs, "--pins", tmp_path)
    done = here("pin", "smoke", "--row", "selmix_head", "--name", "head", *where)
    assert done.code == 0, done.err
    done = here("reproduce", "head", *where, "--json")
    assert done.code == 0, done.out
    assert all(row["equal"] for row in done.document["compared"])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("rungs=[scores, finetune]", "screen: screens the rung head"),
        ("screen.promote=3", "screen.promote: must be less than search.num_trials 3"),
        ("screen.promote=20", "screen.promote: must be at most num_configs 10"),
        ("screen.num_configs=1", "screen.num_configs"),
        ("screen.folds=1", "screen.folds"),
    ],
)
def test_a_screen_that_cannot_be_is_refused(override: str, says: str) -> None:
    done = here("validate", SMOKE, *SCREENED, override)
    assert done.code == 3
    assert says in done.err
