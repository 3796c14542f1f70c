"""The documentation: its examples run, its links lead somewhere."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from selmix.statistics.constructions import CONSTRUCTIONS
from tests.command import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "tests" / "fixtures").glob("*.md")]
)


@pytest.mark.filterwarnings("ignore")  # matters of MLflow's, on a store that begins empty
def test_the_walk_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    failed, tried = doctest.testfile(str(ROOT / "docs" / "walk.md"), module_relative=False, verbose=False)
    assert tried > 50
    assert failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_table_of_limits_is_that_of_the_package() -> None:
    """Metrics with the same limits stand in one row, in the words of their construction."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for key, each in CONSTRUCTIONS.items():
        rows.setdefault((each.single, each.paired, each.why), []).append(f"`{key}`")
    expected = [f"| {', '.join(keys)} | {' | '.join(words)} |" for words, keys in rows.items()]
    lines = (ROOT / "docs" / "statistics.md").read_text().splitlines()
    start = lines.index("| metric | one model | two models on the same samples | why |") + 2
    assert lines[start : lines.index("", start)] == expected
