"""Trials that start from the best head of the rung below: which one it is, what it enters, and how it is made again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.records.folder import RunFolder
from orchestrator.records.types import BestHead, config_hash
from selmix.config import FinetuneConfig
from selmix.models import ModelConfig
from selmix.run.start_model import Base
from selmix.weights import load_weights, state_digest
from tests.command import SMOKE, here
from tests.conftest import catalogue_of
from tests.fakes.in_process import launch, show

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # matters of MLflow's, on a store that begins empty
]
FEW = {
    "untouched", "post_hoc_bias_search", "balanced_head", "mislas_stage_two", "last_layer_post_hoc_both",
    "selmix_head", "uniform_mixup",
}  # fmt: skip

FROM_BEST = (
    "parameters.start.value=best_head", "screen.num_configs=6", "screen.promote=1", "screen.folds=2",
    "search.num_trials=4", "selection.replicates=1", "selection.finalists=1", "rungs=[scores, head, finetune]",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def few_rows() -> Iterator[None]:
    with catalogue_of(FEW.__contains__):
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("handed") / "runs"
    done = launch(runs, *FROM_BEST, "--until", "head")
    assert done.code == 0, done.err
    assert handed(runs) is None
    done = launch(runs, *FROM_BEST)
    assert done.code == 0, done.err
    assert "trials may start from the head of " in done.err
    return runs


def handed(runs: Path) -> BestHead | None:
    return RunFolder.local(runs, "smoke").load_best_head("min_recall")


def test_it_is_the_best_that_was_not_fitted_on_select(runs: Path) -> None:
    found, folder = handed(runs), RunFolder.local(runs, "smoke")
    assert found is not None
    assert found.digest == state_digest(load_weights(folder.best_head("min_recall")))
    heads = [record for record in folder.load_baselines() if record.rung == "head"]
    # The one that is left out is there, or nothing would be left out.
    assert any(record.note.get("judged") == "out of fold" for record in heads)
    able = [record for record in heads if record.note.get("judged") != "out of fold"]
    scores = {record.name: each.score for record in able if (each := record.cross_fitted) is not None}
    assert len(scores) == len(able) > 1
    assert found.approach == max(scores, key=lambda name: scores[name] or 0.0)


def test_trials_begin_with_it(runs: Path) -> None:
    found, folder = handed(runs), RunFolder.local(runs, "smoke")
    assert found is not None
    (row,) = [record for record in folder.load_baselines() if record.name == found.approach]
    trials = folder.load_trials()
    assert {record.config["start"] for record in trials} == {"best_head"}
    # Before the first step a run is the row that it starts from.
    assert {folder.rounds(record.trial_id)[0]["score"] for record in trials} == {row.score}


def test_a_screen_does_without_it(runs: Path) -> None:
    folder = RunFolder.local(runs, "smoke")
    table = pq.read_table(folder.screen_table_path("min_recall")).to_pylist()
    assert {row["start"] for row in table} == {"balanced_head"}


def test_it_is_part_of_the_identity_of_a_trial(runs: Path) -> None:
    folder = RunFolder.local(runs, "smoke")
    found = handed(runs)
    assert found is not None
    for record in folder.load_trials():
        acting = FinetuneConfig(**record.config).acting("min_recall")
        plain, with_head = (
            config_hash("min_recall", each) for each in (acting, acting | {"best_head": found.digest})
        )
        assert record.config_hash == with_head != plain


def test_a_pin_fits_the_head_again(runs: Path, tmp_path: Path) -> None:
    where = ("--runs", runs, "--pins", tmp_path)
    trials = show(runs)["trials"]
    done = here("pin", "smoke", "--trial", trials[0]["trial_id"], "--name", "from-best", *where)
    assert done.code == 0, done.err
    done = here("reproduce", "from-best", *where, "--json")
    assert done.code == 0, done.out
    compared = {row["what"]: row["equal"] for row in done.document["compared"]}
    assert compared["digests/best_head"]
    assert all(compared.values())


def test_library_code_says_where_a_best_head_comes_from() -> None:
    model = ModelConfig("linear_head")
    state = model.build((3,), 2).state_dict()
    head = {"weight": state["head.weight"] + 1, "bias": state["head.bias"] + 1}
    base = Base(model, state, head)
    with pytest.raises(ValueError, match="start: best_head needs the best head of the rung head"):
        base.build("best_head", (3,), 2)
    given = Base(model, state, head, best_head={"weight": head["weight"] + 1, "bias": head["bias"] + 1})
    assert (given.build("best_head", (3,), 2).state_dict()["head.bias"] == head["bias"] + 1).all()
    assert (given.build("given", (3,), 2).state_dict()["head.bias"] == state["head.bias"]).all()


def test_what_looks_before_the_rungs_takes_the_balanced_head(tmp_path: Path) -> None:
    file = (SMOKE, "parameters.start.value=best_head")
    assert here("plan", *file, "--runs", tmp_path / "runs").code == 0
    done = here("diagnose", *file, "--json")
    assert done.code == 0, done.err


def test_where_no_head_meets_the_bounds_it_is_the_nearest(tmp_path: Path) -> None:
    """Fine-tuning may meet what no head meets: the sweep goes on to its end, whatever that is."""
    runs = tmp_path / "runs"
    bound = "constraints=[{metric: min_recall, at_least: 0.99, in: [search]}]"
    done = launch(runs, *FROM_BEST, bound, "objectives=[mean_recall]", "selection.metric=mean_recall")
    assert done.code == 6, done.err
    folder = RunFolder.local(runs, "smoke")
    found = folder.load_best_head("mean_recall")
    assert found is not None
    heads = [r for r in folder.load_baselines() if r.rung == "head" and r.note.get("judged") != "out of fold"]
    best = max(heads, key=lambda record: record.select["min_recall"].value)
    assert found.approach == best.name
    assert {record.state for record in folder.load_trials()} == {"FINISHED"}
