"""A sweep that was launched from arrays, as the Python API shows it: the same as the command line does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from orchestrator import (
    NoFeasibleTrial,
    NotFound,
    OpenedSweep,
    PreflightError,
    Sweep,
    TooManyFailures,
    UsageError,
    open_sweep,
)
from orchestrator.documents import to_document
from orchestrator.records.folder import RunFolder
from orchestrator.run import launch as run_launch
from orchestrator.signals import Stopped
from selmix import load_pin
from selmix.data import build_data_config
from tests.command import ROOT, here
from tests.orchestrator.api.conftest import Notebook

pytestmark = pytest.mark.filterwarnings("ignore")  # matters of MLflow's, on a store that begins empty


@pytest.fixture(scope="module")
def shown(notebook: Notebook) -> dict[str, Any]:
    """The result as the command line has it."""
    document: dict[str, Any] = here("show", "from_arrays", "--json", cwd=notebook.home).document
    return document


def select_of(opened: OpenedSweep) -> Any:
    """The select split, read from the table that the sweep keeps of the arrays."""
    spec = RunFolder.local(Path(opened.path).parent, opened.name).load_spec()
    return (
        build_data_config(**{key: value for key, value in spec["data"].items() if value is not None})
        .load()
        .select
    )


def test_the_notebook_is_short_and_prints_what_show_does(notebook: Notebook) -> None:
    assert len((ROOT / "docs" / "notebook.py").read_text().splitlines()) <= 40
    assert notebook.err == ""
    text = here("show", "from_arrays", cwd=notebook.home).out
    # The command's lines are whole; those of a cell are wrapped.
    assert " ".join(text.splitlines()[0].split()) in " ".join(notebook.out.split())
    predicted, probabilities = notebook.names["predicted"], notebook.names["probabilities"]
    assert predicted.shape == (5,)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(5))


def test_trials_are_those_of_show(notebook: Notebook, shown: dict[str, Any]) -> None:
    table = notebook.opened.trials()
    assert isinstance(table, pa.Table)
    assert table["trial_id"].to_pylist() == [trial["trial_id"] for trial in shown["trials"]]
    for row, trial in zip(table.to_pylist(), shown["trials"], strict=True):
        assert (row["score"], row["state"], row["config.lr"]) == (
            trial["score"], trial["state"], trial["config"]["lr"],
        )  # fmt: skip
        for metric, figure in trial["select"].items():
            assert row[f"select.{metric}"] == figure["value"]
            assert row[f"select.{metric}.low"] == figure["low"]
            assert row[f"select.{metric}.high"] == figure["high"]
    frame = notebook.names["trials"]
    assert list(frame.columns) == table.column_names
    assert frame["score"].tolist() == table["score"].to_pylist()


def test_rows_winner_and_verdict_are_those_of_show(notebook: Notebook, shown: dict[str, Any]) -> None:
    opened, result = notebook.opened, shown["objectives"]["min_recall"]
    rows = opened.rows().to_pylist()
    assert [row["id"] for row in rows] == [row["id"] for row in shown["rows"]]
    for row, expected in zip(rows, shown["rows"], strict=True):
        assert (row["labels"], row["seeds"]) == (expected["labels"], expected["seeds"])
    baselines = {row["approach"]: row for row in rows if row["approach"] != "selmix"}
    for name, baseline in result["baselines"].items():
        assert baselines[name]["select.min_recall"] == baseline["select"]["min_recall"]["value"]
    assert opened.rows(as_frame=True)["id"].tolist() == [row["id"] for row in rows]
    assert opened.winner is not None
    assert opened.verdict is not None
    assert json.loads(json.dumps(to_document(opened.winner))) == result["winner"]
    assert json.loads(json.dumps(to_document(opened.verdict))) == result["verdict"]
    assert (opened.state, opened.objectives) == ("finished", ["min_recall"])
    document = opened.show().as_dict()
    assert json.loads(json.dumps(document))["rows"] == shown["rows"]


def test_every_row_is_loaded_and_predicts_what_is_stored(notebook: Notebook) -> None:
    opened = notebook.opened
    select = select_of(opened)
    rows = [None, "selmix", *opened.rows()["id"].to_pylist()]
    for row in rows:
        stored, model = opened.predictions(row), opened.load(row)
        predicted, probabilities = model.predict(select.inputs)
        assert not model.training
        assert model.class_names == ("common", "seldom", "rare")
        assert torch.equal(stored.labels, select.labels)
        # A row that is fitted on select was judged there out of fold.
        if row is not None and row.endswith("_both"):
            continue
        assert torch.equal(predicted, stored.predicted), row
        assert torch.allclose(probabilities.max(dim=1).values, stored.confidence, atol=1e-5), row
    winner = opened.winner
    assert winner is not None
    recalls = [
        (stored_of := opened.predictions()).correct[stored_of.labels == k].double().mean() for k in range(3)
    ]
    assert float(min(recalls)) == pytest.approx(winner.select["min_recall"].value)


def test_looking_never_opens_test(notebook: Notebook) -> None:
    opened = notebook.opened
    with pytest.raises(
        UsageError, match=r"^test: no pin has opened it for .*--row .* --name NAME` evaluates"
    ) as no:
        opened.predictions(split="test")
    assert no.value.exit_code == 2
    with pytest.raises(UsageError, match="split: must be select or test, got 'train'"):
        opened.predictions(split="train")
    assert opened.show().document.test_openings == []
    assert not (notebook.home / "runs" / "openings.jsonl").exists()
    assert list((notebook.home / "runs").rglob("test-predictions*")) == []


def test_a_pin_opens_test_for_its_row_alone(notebook: Notebook, tmp_path: Path) -> None:
    shutil.copytree(notebook.home / "runs", tmp_path / "runs")
    opened = open_sweep(tmp_path / "runs" / "from_arrays")
    written = opened.pin("kept", "tau_normalisation", pins=tmp_path / "pins")
    assert written.path == tmp_path / "pins" / "kept.yaml"
    stored = opened.predictions("tau_normalisation", split="test")
    assert len(stored.labels) == 150
    (listed,) = here("pins", "--json", "--pins", tmp_path / "pins").document["pins"]
    recalls = [float(stored.correct[stored.labels == k].double().mean()) for k in range(3)]
    assert min(recalls) == pytest.approx(listed["test"]["value"])
    with pytest.raises(UsageError, match="no pin has opened it for min_recall/baseline/untouched"):
        opened.predictions("untouched", split="test")
    # The same model, from the sweep and from its pin.
    inputs = select_of(opened).inputs
    for ours, theirs in zip(
        opened.load("tau_normalisation").predict(inputs), load_pin(written.path).predict(inputs), strict=True
    ):
        assert torch.equal(ours, theirs)
    again = here("reproduce", "kept", "--pins", tmp_path / "pins", "--runs", tmp_path / "runs", cwd=tmp_path)
    assert again.code == 0, again.out
    with pytest.raises(UsageError, match=r"kept\.yaml: exists"):
        opened.pin("kept", pins=tmp_path / "pins")


def test_a_sweep_is_opened_by_its_name_or_by_its_path(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_path = open_sweep(notebook.home / "runs" / "from_arrays")
    assert by_path.show().as_dict() == notebook.opened.show().as_dict()
    monkeypatch.chdir(notebook.home / "runs" / "from_arrays")
    assert open_sweep(".").name == "from_arrays"
    with pytest.raises(NotFound, match="did you mean from_arrays") as none:
        open_sweep("from_array", notebook.home / "runs")
    done = here("show", "from_array", "--runs", notebook.home / "runs")
    assert (done.code, done.err) == (none.value.exit_code, f"selmix: {none.value}\n")


def test_rows_that_there_are_not(notebook: Notebook) -> None:
    with pytest.raises(NotFound, match="has no row 'plugin'"):
        notebook.opened.load("plugin")
    with pytest.raises(UsageError, match=r"objective: must be one of min_recall, .* got 'g_mean'"):
        notebook.opened.result("g_mean")


def test_weights_that_are_gone_are_an_error_of_ours(notebook: Notebook, tmp_path: Path) -> None:
    shutil.copytree(notebook.home / "runs", tmp_path / "runs")
    opened = open_sweep("from_arrays", tmp_path / "runs")
    next((tmp_path / "runs").rglob("untouched/weights*")).unlink()
    with pytest.raises(PreflightError, match="must hold the weights of min_recall/baseline/untouched"):
        opened.load("untouched")


def test_what_a_cell_shows_is_text_and_markup(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    shown = notebook.opened.show()
    assert capsys.readouterr() == ("", "")
    assert repr(shown).splitlines()[0].startswith("min_recall: ")
    # A link is never broken.
    assert max(len(line) for line in repr(shown).splitlines() if "://" not in line) <= 120
    page = shown._repr_html_()
    assert page.startswith("<pre><b>min_recall: ")
    # The bounds of a verdict have no sign that a page would take for markup.
    assert page.count("<") == 4
    assert repr(notebook.opened).startswith("OpenedSweep(")
    assert notebook.opened._repr_html_() == page


def test_a_table_has_one_type_a_column() -> None:
    from orchestrator.api.tables import _column

    assert _column([1, None, 0.5]).to_pylist() == [1.0, None, 0.5]
    assert _column([1, "none"]).to_pylist() == ["1", "none"]
    assert _column([True, None]).type == pa.bool_()
    assert _column([None, None]).null_count == 2
    assert _column([["a"], []]).to_pylist() == [["a"], []]
    assert np.isfinite(_column([0.5, 2]).to_numpy()).all()


def test_the_same_arrays_resume_and_others_are_refused(notebook: Notebook) -> None:
    question, names = notebook.names["question"], notebook.names["names"]
    keys = {"class_names": names, "feedback": 20, "select": 48, "test": 50, "runs": notebook.home / "runs"}
    features, labels = notebook.names["features"], notebook.names["labels"]
    before = sorted(path for path in (notebook.home / "runs").rglob("*") if path.is_file())
    again = Sweep.from_arrays(question, features, labels, **keys).launch(in_process=True)
    assert again.state == "finished"
    other = features.copy()
    other[0, 0] += 1
    with pytest.raises(UsageError, match=r"launched with another file; changed: data\.path"):
        Sweep.from_arrays(question, other, labels, **keys).launch(in_process=True)
    assert sorted(path for path in (notebook.home / "runs").rglob("*") if path.is_file()) == before
    # The file that is kept beside the result is the sweep's own.
    done = here("launch", "runs/from_arrays/sweep.yaml", "--in-process", cwd=notebook.home)
    assert (done.code, done.out) == (0, "")


@pytest.mark.parametrize(
    ("code", "kind"),
    [(4, PreflightError), (5, TooManyFailures), (6, NoFeasibleTrial), (130, Stopped), (143, Stopped)],
)
def test_the_exit_codes_of_a_launch_are_errors(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[BaseException]
) -> None:
    monkeypatch.setattr(run_launch, "launch_sweep", lambda *_, **__: code)
    sweep = Sweep.from_dict(
        notebook.names["question"] | {"data": {"name": "gaussians"}}, runs=notebook.home / "runs"
    )
    with pytest.raises(kind) as caught:
        sweep.launch(in_process=True)
    assert caught.value.exit_code == code  # type: ignore[attr-defined]
    assert isinstance(caught.value, KeyboardInterrupt) == (code > 100)
