"""The documentation: its examples run, its links lead somewhere."""

from __future__ import annotations

import doctest
import io
import json
import re
import runpy
from pathlib import Path

import pytest

from selmix.statistics.constructions import CONSTRUCTIONS
from tests.command import ROOT

FOLDERS = (ROOT, ROOT / "docs", ROOT / "deploy", ROOT / "tests" / "fixtures")
PAGES = sorted(page for folder in FOLDERS for page in folder.glob("*.md"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # matters of MLflow's, on a store that begins empty
def test_the_walk_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    failed, tried = doctest.testfile(str(ROOT / "docs" / "walk.md"), module_relative=False, verbose=False)
    assert tried > 50
    assert failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text())
    assert [target for target, _ in links if not (page.parent / target).exists()] == []
    for target, anchor in links:
        if anchor:
            named = page.parent / target if target else page
            assert anchor in {anchor_of(line) for line in named.read_text().splitlines()}, (target, anchor)


def anchor_of(line: str) -> str:
    """Anchor that a heading has on a forge; empty for any other line."""
    found = re.match(r"#+ (.*)", line)
    words = "" if found is None else re.sub(r"[^\w\- ]", "", found[1].lower())
    return words.strip().replace(" ", "-")


def test_the_table_of_limits_is_that_of_the_package() -> None:
    """Metrics with the same limits stand in one row, in the words of their construction."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for key, each in CONSTRUCTIONS.items():
        rows.setdefault((each.single, each.paired, each.why), []).append(f"`{key}`")
    expected = [f"| {', '.join(keys)} | {' | '.join(words)} |" for words, keys in rows.items()]
    lines = (ROOT / "docs" / "statistics.md").read_text().splitlines()
    start = lines.index("| metric | one model | two models on the same samples | why |") + 2
    assert lines[start : lines.index("", start)] == expected


@pytest.mark.parametrize(
    ("name", "title", "winner", "last"),
    [
        ("better", "smoke: SelMix better than last_layer_post_hoc", "SelMix: trial-003", "SelMix: trial-003"),
        (
            "tied",
            "smoke: last_layer_on_train_plus_feedback tied with SelMix",
            "last_layer_on_train_plus_feedback",
            "SelMix: trial-003",
        ),
        (
            "finished",
            "smoke: mislas_stage_two cannot be told from last_layer_post_hoc",
            "mislas_stage_two",
            "mislas_stage_two",
        ),
        ("earlier", "smoke: SelMix tied with mislas_stage_two", "SelMix: trial-000", "mislas_stage_two"),
    ],
)
def test_the_figure_is_drawn_of_every_kind_of_winner(
    name: str, title: str, winner: str, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    script = runpy.run_path(str(ROOT / "docs" / "figure.py"))
    text = (ROOT / "tests" / "screens" / "documents" / f"show_{name}.json").read_text()
    rows = script["rows_of"](json.loads(text), "min_recall")
    assert [label for label, _, kind in rows if kind == "winner"] == [winner]
    assert {label for label, _, _ in rows} >= {"untouched", "balanced_head"}
    # By value; of equal ones the order of the table stands.
    best = max(row[1]["value"] for row in rows)
    assert last in [label for label, value, _ in rows if value["value"] == best]
    assert script["title_of"](json.loads(text), "min_recall") == title
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    monkeypatch.setattr("sys.argv", ["figure.py", str(tmp_path / "drawn.svg")])
    script["main"]()
    assert title in (tmp_path / "drawn.svg").read_text()
