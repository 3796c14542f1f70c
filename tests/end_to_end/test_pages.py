"""MLflow's pages as a browser shows them: the printed link opens on the table of `selmix show`."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.documents import from_document
from orchestrator.results.rows import SELMIX, ObjectiveResult, ranked_rows
from orchestrator.tracking.client import open_client
from tests.command import Background, here
from tests.fakes.in_process import launch, show
from tests.fakes.servers import MlflowServer, answers, free_ports

CHROMIUM = shutil.which("chromium") or ""
SHOTS = os.environ.get("SELMIX_SHOTS")
"""Folder for pictures of what the browser shows, to be looked at; none are taken without it."""

TWO = ("objectives=[min_recall, g_mean]", "selection.metric=null", "name=two")

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("four_baselines"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of one objective and one of two, in a file."""
    runs = tmp_path_factory.mktemp("pages") / "runs"
    for overrides in ((), TWO):
        done = launch(runs, *overrides)
        assert done.code == 0, done.err
    return runs


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("needs chromium")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1600, "height": 1000})
        browser.close()


def look(page: Any, link: str, name: str, row: str = ".ag-center-cols-container .ag-row") -> None:
    """Open a link in a browser that remembers nothing, and wait for its rows."""
    page.context.clear_cookies()
    page.goto("about:blank")
    page.goto(link)
    page.wait_for_selector(row, timeout=60_000)
    page.wait_for_timeout(1500)  # columns are put in their order after the first drawing
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{SHOTS}/{name}.png")


def listed(page: Any) -> list[str]:
    """Names of the runs from the top, those below the edge too."""
    names: dict[int, str] = {}
    for _ in range(20):
        for row in page.query_selector_all(".ag-row"):
            found = re.search(r"(baseline-\w+|trial-\d+(-seed-\d+)?)", row.inner_text())
            if found is not None:
                names[int(row.get_attribute("row-index"))] = found[1]
        page.mouse.move(700, 700)
        page.mouse.wheel(0, 300)
        page.wait_for_timeout(150)
    return [names[index] for index in sorted(names)]


def expected(document: dict[str, Any], objective: str) -> list[str]:
    """Names of the runs that the table of `selmix show` lists, in its order."""
    result = from_document(ObjectiveResult, document["objectives"][objective])
    return [
        row.id.partition("/")[2] if row.approach == SELMIX else f"baseline-{row.approach}"
        for row in ranked_rows(objective, result)
    ]


def in_the_text(text: str) -> list[str]:
    """The same, as the first table of the screen has it."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if "95 % interval" in line and "score" in line)
    names = []
    for line in lines[start + 1 :]:
        if not line.startswith("  "):
            break
        name = line.strip().removeprefix("winner ").removeprefix("SelMix ").split()[0].rstrip("*")
        names.append(name if name.startswith("trial-") else f"baseline-{name}")
    return names


def test_the_printed_link_lists_the_table_below_its_verdict(runs: Path, page: Any, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    document, text = show(runs), here("show", "smoke", "--runs", runs).out
    (link,) = document["links"].values()
    assert link in text
    with Background("ui", "--runs", runs, "--port", str(port), log=tmp_path / "ui.log") as ui:
        ui.wait_until(lambda: answers(f"http://127.0.0.1:{port}/version"))
        said = (tmp_path / "ui.log").read_text().splitlines()
        served = link.replace(":5000/", f":{port}/")
        assert said[0] == f"http://127.0.0.1:{port}"
        assert f"smoke: {served}" in said
        look(page, served, "table")
        assert listed(page) == expected(document, "min_recall") == in_the_text(text)
        body = page.inner_text("body")
        # The first line of the note is the verdict, which stands above the runs.
        assert text.splitlines()[0] in body
        assert "Model training" in body
        assert "Sort: selmix.rank" in body
        cells = page.query_selector_all(".ag-header-cell")
        placed = sorted((cell.bounding_box()["x"], cell.inner_text()) for cell in cells)
        order = [heading for _, heading in placed if heading.startswith(("selmix.rank", "best/"))]
        assert order[:3] == ["selmix.rank", "best/score", "best/select/min_recall"]
        # Two objectives have a view each.
        two, lines = show(runs, "two"), in_the_text(here("show", "two", "--runs", runs).out)
        for objective, each in two["links"].items():
            look(page, each.replace(":5000/", f":{port}/"), f"table-{objective}")
            assert listed(page) == expected(two, objective)
        assert lines == expected(two, "min_recall")
        # The note leads to the trials, the runs with learning curves, and these stand before metrics of one dot.
        look(page, served, "note")
        note = page.evaluate(
            "() => [...document.querySelectorAll('a')].map(a => a.getAttribute('href') || '')"
        )
        (trials_link,) = {href for href in note if "-trials" in href}
        look(page, f"http://127.0.0.1:{port}/{trials_link.lstrip('/')}", "charts", "text=Model metrics")
        sections = re.findall(
            r"(?m)^(Model metrics|select|best|best/select)\s*\(\d+\)", page.inner_text("body")
        )
        assert sections[0] == "Model metrics"
        look(page, f"{served}-trials", "trials")
        trials = [row["trial_id"].partition("/")[2] for row in document["trials"] if row["kind"] == "trial"]
        assert sorted(listed(page)) == trials


def test_sorted_by_score_a_running_sweep_and_one_of_before_are_lists_too(
    runs: Path, page: Any, tmp_path: Path
) -> None:
    """The same link while a sweep runs; and the plain one of a store that knows no views."""
    from orchestrator.tracking.view import running_view

    document, client = show(runs), open_client(f"sqlite:///{runs}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "smoke"]
    key, text = running_view("running", document["sweep_id"], "min_recall", "min_recall").to_tag()
    client.set_experiment_tag(experiment.experiment_id, key, text)
    (port,) = free_ports(1)
    with Background("ui", "--runs", runs, "--port", str(port), log=tmp_path / "ui.log") as ui:
        ui.wait_until(lambda: answers(f"http://127.0.0.1:{port}/version"))
        base = f"http://127.0.0.1:{port}/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning"
        look(page, f"{base}&viewStateShareKey=running", "running")
        names = listed(page)
        assert {name for name in names if "seed" in name} == set()
        scores = {
            run.info.run_name: run.data.metrics["best/score"]
            for run in client.search_runs([experiment.experiment_id])
        }
        assert [scores[name] for name in names] == sorted((scores[name] for name in names), reverse=True)
        look(page, base, "plain", ".ag-row, [role=row]")
        assert "smoke" in page.inner_text("body")


def test_a_server_has_the_same_view(page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with MlflowServer(tmp_path) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        done = launch(tmp_path / "runs")
        assert done.code == 0, done.err
        document = show(tmp_path / "runs")
        (link,) = document["links"].values()
        assert link.startswith(f"{server.address}/#/experiments/")
        assert link in done.err
        look(page, link, "server")
        assert listed(page) == expected(document, "min_recall")
