"""Views of runs, the links to them, and the note of an experiment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.tracking.client import open_client
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.values import Best
from orchestrator.tracking.view import (
    experiment_note,
    judged_view,
    noted,
    pages_of,
    running_view,
    runs_link,
    trials_view,
    view_key,
)

pytestmark = pytest.mark.filterwarnings("ignore")

TRIALS = {"o/trial-000": 0.25, "o/trial-001": 0.5, "o/baseline/untouched": 0.375}


def test_a_key_is_letters_digits_and_a_hyphen_whatever_the_objectives_are_called() -> None:
    assert view_key("ab12", ["own:f"], "own:f") == "ab12"
    assert [view_key("ab12", ["h_mean", "own:f"], name) for name in ("h_mean", "own:f")] == [
        "ab12-1",
        "ab12-2",
    ]


@pytest.mark.parametrize(
    ("address", "pages"),
    [
        ("https://user:secret-word@host/mlflow", "https://host/mlflow"),
        ("sqlite:////a/mlflow.db", "http://127.0.0.1:5000"),
        ("postgresql://user:secret-word@host/db", "http://127.0.0.1:5000"),
    ],
)
def test_links_lead_to_a_server_or_to_where_the_ui_serves(address: str, pages: str) -> None:
    assert pages_of(address) == pages
    assert runs_link(pages, "7", "ab12") == (
        f"{pages}/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=ab12"
    )
    assert runs_link(pages, "7", None) == f"{pages}/#/experiments/7/runs?workflowType=machine_learning"


def test_a_view_is_plain_json_with_filter_sort_and_columns() -> None:
    key, text = judged_view("ab12", "ab12", "o", "min_recall").to_tag()
    state = json.loads(text)
    assert key == "mlflow.sharedViewState.ab12"
    assert (state["orderByKey"], state["orderByAsc"]) == ("tags.`selmix.rank`", True)
    assert state["selectedColumns"][:3] == [
        "tags.`selmix.rank`", "metrics.`best/score`", "metrics.`best/select/min_recall`",
    ]  # fmt: skip
    assert set(state["columnWidths"]) == set(state["columnOrder"]) > set(state["selectedColumns"])
    assert len(text) < 5000  # what stores of earlier versions of MLflow take


def test_a_note_keeps_what_a_user_wrote_and_replaces_what_we_wrote() -> None:
    first = noted("ours 1", "", "")
    assert first == "ours 1"
    assert noted("ours 2", first, "ours 1") == "ours 2"
    theirs = noted("ours 1", "theirs", "")
    assert theirs == "ours 1\n\ntheirs"
    assert noted("ours 2", theirs, "ours 1") == "ours 2\n\ntheirs"
    assert noted("ours 2", "edited\n\ntheirs", "ours 1") == "ours 2\n\nedited\n\ntheirs"
    note = experiment_note(["o: TIED: x", "p: BETTER: y"], "s", {"o": "#/o"})
    assert note.splitlines()[0] == "o: TIED: x / p: BETTER: y"
    assert "[o](#/o)" in note


def runs_of(address: str, view_text: str, experiment: str) -> list[str]:
    """Names of the runs of a view, as the pages ask for them."""
    state = json.loads(view_text)
    order = f"{state['orderByKey']} {'ASC' if state['orderByAsc'] else 'DESC'}"
    found = open_client(address).search_runs([experiment], state["searchFilter"], order_by=[order])
    return [run.info.run_name for run in found]


def test_mlflow_lists_the_runs_of_a_view_in_its_order(tmp_path: Path) -> None:
    address, notes = f"sqlite:///{tmp_path}/mlflow.db", list[str]()
    # Another sweep in the same experiment, as two people on one server may have it.
    for sweep in ("other", "ab12"):
        tracker = Tracker(address, "s", sweep, tmp_path / "artifacts", notes.append)
        tracker.open_sweep("s", {}, {})
        for name, score in TRIALS.items():
            kind = "baseline" if "baseline" in name else "trial"
            for each, its in ((name, kind), (f"{name}/seed-1", "replicate")):
                tags = {"selmix.kind": its, "selmix.objective": "o"}
                tracker.open_trial(each, each.replace("/", "-"), tags, {}, 1, None)
                tracker.finish_trial(each, "FINISHED", 2, 0, Best({}, "min_recall", score), {}, [])
        running = running_view("ab12", "ab12", "o", "min_recall")
        tracker.describe({"o": running})
        assert tracker.close() == 0
    assert tracker.views == {"o": "ab12"}
    experiment = tracker.experiment_id
    assert runs_of(address, running.to_tag()[1], experiment) == [
        "o-trial-001", "o-baseline-untouched", "o-trial-000",
    ]  # fmt: skip
    again = Tracker(address, "s", "ab12", tmp_path / "artifacts", notes.append)
    again.open_sweep("s", {}, {})
    for name in TRIALS:
        again.open_trial(name, name, {}, {}, 1, None)
    again.rank_trial("o/trial-000", 1, 0.75, 3, 0, {"selmix.labels": "train"})
    again.rank_trial("o/baseline/untouched", 2, None, 3, 0, {})
    judged = judged_view("ab12", "ab12", "o", "min_recall")
    again.describe({"o": judged}, [trials_view(judged, "ab12", "o", "min_recall")], "the verdict")
    again.describe({}, note="another verdict")
    assert again.close() == 0
    client = open_client(address)
    tags = client.get_experiment(experiment).tags
    assert tags["mlflow.sharedViewState.ab12"] == judged.to_tag()[1]
    assert tags["mlflow.note.content"] == "another verdict"
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert runs_of(address, judged.to_tag()[1], experiment) == ["o-trial-000", "o-baseline-untouched"]
    assert runs_of(address, tags["mlflow.sharedViewState.ab12-trials"], experiment) == [
        "o-trial-000", "o-trial-001",
    ]  # fmt: skip
    (trial,) = client.search_runs([experiment], "tags.`selmix.rank` = '001'")
    assert [point.value for point in client.get_metric_history(trial.info.run_id, "best/score")] == [
        0.25,
        0.75,
    ]
    assert trial.data.metrics["best/score"] == 0.75  # the mean over fresh seeds, which is the later one
    assert notes == []


def test_a_store_that_refuses_the_view_costs_the_view_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", "s", "ab12", tmp_path / "artifacts", notes.append)
    tracker.open_sweep("s", {}, {})

    def refused(*_: object) -> None:
        raise PermissionError("403: not yours")

    monkeypatch.setattr(tracker._client, "set_experiment_tag", refused)
    tracker.describe({"o": running_view("ab12", "ab12", "o", "m")})
    tracker.finish_sweep("FINISHED", 1, {}, {})
    assert tracker.close() == 0
    assert tracker.views == {}
    assert notes == ["MLflow: sweep: views and note of its experiment was refused: 403: not yours"]
