"""A function of a user's own from the sweep file to a pin that is made again in another folder."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.pins.lock_file import broken_sections, read_pin
from orchestrator.records.folder import RunFolder
from tests.command import SMOKE, here, selmix
from tests.fakes.in_process import launch, show

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # matters of MLflow's, on a store that begins empty
    pytest.mark.usefixtures("four_baselines"),
]

SOURCE = """
import numpy as np
from own_of_a_test_beside import floor


def fbeta(confusion, beta=2.0):
    hits = confusion.diagonal()
    recall, precision = hits / confusion.sum(1), hits / floor(confusion.sum(0))
    return ((1 + beta**2) * precision * recall / floor(beta**2 * precision + recall)).mean()


def miss(confusion):
    return 1 - np.mean(np.diag(confusion) / np.sum(confusion, axis=1))


miss.lower_is_better = True
"""
TINY = (
    "objectives=['own_of_a_test:fbeta']", "selection.metric=null", "selection.margin=0.03", "search.num_trials=1",
    "selection.replicates=2", "selection.finalists=1", "pretrain.epochs=2", "parameters.steps.value=20",
)  # fmt: skip


def forget() -> None:
    for name in ("own_of_a_test", "own_of_a_test_beside"):
        sys.modules.pop(name, None)


def write(folder: Path, source: str = SOURCE) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "own_of_a_test.py").write_text(source)
    (folder / "own_of_a_test_beside.py").write_text("def floor(x):\n    return x.clamp_min(1e-12)\n")
    forget()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose sweep lies, with its module, in a folder of its own; the sweep is pinned."""
    home = tmp_path_factory.mktemp("own")
    write(home / "files")
    shutil.copyfile(SMOKE, home / "files" / "sweep.yaml")
    assert launch(home / "runs", *TINY, file=home / "files" / "sweep.yaml", cwd=home).code == 0
    forget()
    # From here on nothing but what was kept has the function.
    shutil.rmtree(home / "files")
    done = here("pin", "smoke", "--name", "kept", cwd=home)
    assert done.code == 0, done.err
    yield home
    forget()


def fbeta(counts: np.ndarray[Any, Any], beta: float) -> float:
    """By its definition, in numpy."""
    hits = np.diag(counts)
    recall, precision = hits / counts.sum(axis=1), hits / np.maximum(counts.sum(axis=0), 1e-12)
    return float(
        np.mean((1 + beta**2) * precision * recall / np.maximum(beta**2 * precision + recall, 1e-12))
    )


def test_every_row_is_ranked_judged_and_shown_by_that_function(home: Path) -> None:
    result = show(home / "runs")["objectives"]["own_of_a_test:fbeta"]
    assert (result["metric"], result["verdict"]["margin"]) == ("own_of_a_test:fbeta", 0.03)
    folder = RunFolder.local(home / "runs", "smoke")
    rows = [*folder.load_trials(), *folder.load_baselines()]
    assert {row.state for row in rows} == {"FINISHED"}
    for row in rows:
        values = []
        for arrays in folder.load_predictions(row.trial_id):
            counts = np.zeros((6, 6))
            np.add.at(counts, (arrays["labels"], arrays["predicted"]), 1)
            values.append(fbeta(counts, 2.0))
        figure = row.select["own_of_a_test:fbeta"]
        assert figure.value == pytest.approx(np.mean(values)), row.trial_id
        assert figure.low < figure.value < figure.high
        # The bootstrap mean lies near the value, and not near that of another metric by chance in all rows.
        assert row.score == pytest.approx(figure.value, abs=0.05)
    listed = here("ls", cwd=home)
    value = result["winner"]["replicates"]["select"]["own_of_a_test:fbeta"]["value"]
    # Its range is not known: no percent.
    assert f"own_of_a_test:fbeta {value:.3f} on select: " in listed.out
    shown = here("show", "smoke", cwd=home).out
    assert "own_of_a_test:fbeta on select  " in shown
    assert f"{value:.3f}" in shown


def test_record_and_pin_know_the_source(home: Path) -> None:
    state = json.loads((home / "runs" / "smoke" / "sweep.json").read_text())
    pin = read_pin(home / "pins", "kept")
    (of_sweep,), (of_pin,) = state["objective_source"], pin["objective_source"]
    assert (of_sweep["module"], of_sweep["file"]) == ("own_of_a_test", "source/own_of_a_test.py")
    assert of_pin == {**of_sweep, "file": "kept.source/own_of_a_test.py"}
    assert of_pin["files"] == ["own_of_a_test.py", "own_of_a_test_beside.py"]
    assert (home / "pins" / of_pin["file"]).read_text() == SOURCE
    assert broken_sections(pin) == []
    assert {"own_of_a_test:fbeta", "macro_f1"} <= set(pin["test"])


def test_another_folder_makes_it_again_by_the_source_beside_the_pin(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "pins", tmp_path / "pins")
    # Another function of that name lies where modules are looked for: it does not count.
    write(tmp_path, SOURCE.replace("beta=2.0", "beta=0.5"))
    done = here("reproduce", "kept", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "kept: reproduced; every digest and number is equal" in done.out


@pytest.mark.parametrize("change", ["edited", "missing"])
def test_another_source_is_not_reproduced_and_named(home: Path, tmp_path: Path, change: str) -> None:
    pins = shutil.copytree(home / "pins", tmp_path / "pins")
    beside = pins / "kept.source" / "own_of_a_test_beside.py"
    if change == "edited":
        beside.write_text(beside.read_text().replace("1e-12", "1e-3"))
    else:
        beside.unlink()
    done = here("reproduce", "kept", "--json", cwd=tmp_path)
    assert done.code == 7
    (problem,) = done.document["problems"]
    assert problem.startswith("objective_source: module own_of_a_test: pins/kept.source/own_of_a_test")
    assert done.document["compared"] == []


def test_the_runs_own_copy_is_checked_before_test_is_opened(home: Path, tmp_path: Path) -> None:
    runs = shutil.copytree(home / "runs", tmp_path / "runs")
    (runs / "smoke" / "source" / "own_of_a_test.py").write_text(SOURCE + "# more\n")
    done = here("pin", "smoke", "--name", "other", "--runs", runs, cwd=tmp_path)
    assert done.code == 4
    assert "module own_of_a_test: " in done.err
    assert not (tmp_path / "pins").exists()
    openings = (home / "runs" / "openings.jsonl").read_text()
    assert (runs / "openings.jsonl").read_text() == openings


def test_half_a_sweep_does_not_go_on_with_another_source(home: Path, tmp_path: Path) -> None:
    runs = shutil.copytree(home / "runs", tmp_path / "runs")
    state_path = runs / "smoke" / "sweep.json"
    state = json.loads(state_path.read_text())
    here_now = {"tracking_uri": f"sqlite:///{runs / 'mlflow.db'}"}
    state_path.write_text(json.dumps(state | here_now | {"exit_code": None, "state": "stopped"}))
    write(tmp_path, SOURCE.replace("beta=2.0", "beta=1.0"))
    done = launch(runs, *TINY, cwd=tmp_path)
    assert done.code == 2
    assert (
        "this sweep was launched with another source of its own functions; changed: own_of_a_test (sha"
        in done.err
    )
    assert "launch the sweep under a new name (name=NEW)" in done.err
    # With the same one it does.
    write(tmp_path)
    done = launch(runs, *TINY, cwd=tmp_path)
    assert done.code == 0, done.err


@pytest.mark.slow
def test_a_metric_that_is_minimised_ranks_and_bounds_another_objective(tmp_path: Path) -> None:
    """Of numpy: it has no gradient, and orders rows all the same."""
    write(tmp_path)
    more = (
        "objectives=[mean_recall]", "selection.metric='own_of_a_test:miss'", "selection.margin=0.02",
        "constraints=[{metric: 'own_of_a_test:fbeta', at_least: 0.1, in: [search]}]",
    )  # fmt: skip
    done = launch(tmp_path / "runs", *TINY, *more, cwd=tmp_path)
    assert done.code == 0, done.err
    result = show(tmp_path / "runs")["objectives"]["mean_recall"]
    select = result["winner"]["select"]
    assert select["own_of_a_test:miss"]["value"] == pytest.approx(1.0 - select["mean_recall"]["value"])
    assert "own_of_a_test:fbeta" in select
    scores = {
        name: (row["score"], row["select"]["mean_recall"]["value"])
        for name, row in result["baselines"].items()
    }
    assert all(score == pytest.approx(value - 1.0, abs=0.02) for score, value in scores.values())
    listed = here("ls", cwd=tmp_path).out
    means = result["winner"]["replicates"]["select"]["own_of_a_test:miss"]["value"]
    assert f"mean_recall, judged by own_of_a_test:miss: {means:.3f} on select" in listed


def test_evaluate_takes_a_function_of_ones_own(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    write(tmp_path)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(20)
    scores = torch.randn(60, 3, generator=generator) + 2.0 * torch.nn.functional.one_hot(labels, 3)
    pq.write_table(pa.table({"label": labels.numpy(), "scores": scores.tolist()}), tmp_path / "t.parquet")
    done = here("evaluate", "t.parquet", "--objective", "own_of_a_test:fbeta", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    counts = np.zeros((3, 3))
    np.add.at(counts, (labels.numpy(), scores.argmax(1).numpy()), 1)
    assert done.document["metric"] == "own_of_a_test:fbeta"
    assert done.document["value"]["value"] == pytest.approx(fbeta(counts, 2.0))
    assert done.document["correction"]["value"] > 0
    text = here("evaluate", "t.parquet", "--objective", "own_of_a_test:fbeta", cwd=tmp_path).out
    assert text.startswith(f"own_of_a_test:fbeta {fbeta(counts, 2.0):.3f} [0.")
    assert "to a side, more than 0.05, with 20 samples" in text
    for name, says in (
        ("nothing", "has no function 'nothing'"),
        ("floor", "fails on a 3 x 3 confusion matrix|one number"),
    ):
        done = here("evaluate", "t.parquet", "--objective", f"own_of_a_test:{name}", cwd=tmp_path)
        assert done.code == 2
        assert done.err.startswith("selmix: --objective: own_of_a_test:")
        assert any(part in done.err for part in says.split("|")), done.err


@pytest.mark.long
@pytest.mark.ray
def test_a_function_travels_to_the_workers_of_ray(tmp_path: Path) -> None:
    """Driven from another folder than the file's: the workers import what the driver does."""
    write(tmp_path / "files")
    shutil.copyfile(SMOKE, tmp_path / "files" / "sweep.yaml")
    (tmp_path / "elsewhere").mkdir()
    more = (
        "objectives=['own_of_a_test:fbeta']", "selection.metric=null", "selection.margin=0.02",
        "selection.statistic=value", "search.num_trials=1", "selection.replicates=1", "selection.finalists=1",
        "parameters.steps.value=20",
    )  # fmt: skip
    file = tmp_path / "files" / "sweep.yaml"
    runs, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    done = selmix("launch", file, *more, "--runs", runs, cwd=elsewhere, timeout=850)
    assert done.code == 0, done.err
    folder = RunFolder.local(runs, "smoke")
    rows = [*folder.load_trials(), *folder.load_baselines()]
    assert {row.state for row in rows} == {"FINISHED"}
    assert all("own_of_a_test:fbeta" in row.select for row in rows)
