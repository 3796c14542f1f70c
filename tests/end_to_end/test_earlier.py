"""Records and a pin that an earlier version wrote: shown, listed, reproduced, and resumed, by this one.

``tests/fixtures/README.md`` says how they were made.
"""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.provenance import environment
from orchestrator.records.folder import RunFolder
from tests.command import ROOT, here, selmix

pytestmark = pytest.mark.filterwarnings("ignore")  # matters of MLflow's, on a store that begins empty

CLOCKS = {
    "cost_s", "started_ms", "ended_ms", "mlflow_run_id", "created", "ended", "tracking_uri", "lost_s",
    "against_is_cheaper",
}  # fmt: skip
"""What a clock decides, or the MLflow store."""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixture, unpacked, its sweeps with an MLflow store on this machine."""
    home = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ROOT / "tests" / "fixtures" / "earlier.tar.xz") as archive:
        if sys.version_info >= (3, 11, 4):
            archive.extractall(home, filter="data")
        else:
            archive.extractall(home)
    for runs in ("runs", "finished"):
        path = home / "earlier" / runs / "half" / "sweep.json"
        state = json.loads(path.read_text()) | {"tracking_uri": f"sqlite:///{home}/earlier/{runs}/mlflow.db"}
        path.write_text(json.dumps(state))
    return home / "earlier"


@pytest.fixture(scope="module")
def same_stack(earlier: Path) -> bool:
    """True if this machine decides bits as the one did that made the fixture."""
    made = RunFolder.local(earlier / "finished", "half").load_state().environment
    assert made is not None
    return made.stack() == environment(1).stack()


def expected(earlier: Path, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((earlier / "expected" / name).read_text())
    return document


def contained(old: Any, new: Any, where: str = "") -> list[str]:
    """Differences of what an earlier document said; keys that were added since are none."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            difference
            for key, value in old.items()
            if key not in CLOCKS
            for difference in contained(value, new.get(key, "no such key"), f"{where}/{key}")
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            difference
            for k, (one, other) in enumerate(zip(old, new, strict=True))
            for difference in contained(one, other, f"{where}/{k}")
        ]
    return [] if old == new else [f"{where}: {old} -> {new}"]


def test_a_finished_sweep_is_shown_as_it_was(earlier: Path) -> None:
    done = here("show", "half", "--runs", earlier / "finished", "--json")
    assert done.code == 0, done.err
    assert contained(expected(earlier, "half.json"), done.document) == []
    text = here("show", "half", "--runs", earlier / "finished").out
    before = (earlier / "expected" / "half.txt").read_text()
    for first in (before.splitlines()[0], text.splitlines()[0]):  # in words of their own
        for fact in (
            "min_recall: TIED: ",
            "trial-000 (the defaults)",
            "post_hoc_logit_adjustment",
            "+3.7 [-50.3, +52.9]",
        ):
            assert fact in first
    assert here("ls", "--runs", earlier / "finished", "--json").document["sweeps"][0]["sweep"] == "half"


def test_what_was_killed_is_shown(earlier: Path) -> None:
    document = here("show", "half", "--runs", earlier / "runs", "--json").document
    assert document["state"] == "stopped"
    states = {row["trial_id"].rpartition("/")[2]: row["state"] for row in document["trials"]}
    assert states == {"trial-000": "FINISHED", "trial-001": "FINISHED", "trial-002": "INTERRUPTED"}


def test_pins_are_listed(earlier: Path) -> None:
    document = here("pins", "--pins", earlier / "pins", "--json").document
    assert contained(expected(earlier, "pins.json"), document) == []


def test_a_pin_is_reproduced(earlier: Path, same_stack: bool, tmp_path: Path) -> None:
    done = here("reproduce", "before", "--pins", earlier / "pins", "--runs", tmp_path, "--json")
    assert done.code == 0, done.out
    compared = done.document["compared"]
    assert done.document["same_stack"] == same_stack
    if same_stack:
        assert sum(row["equal"] for row in compared) == len(compared) == 110


def test_a_half_run_sweep_resumes(earlier: Path, same_stack: bool, tmp_path: Path) -> None:
    """To the result that the earlier version came to itself, undisturbed; its finished trials are not run again."""
    runs = earlier / "runs"
    before = RunFolder.local(runs, "half").load_trial("min_recall/trial-000")
    done = selmix("launch", runs / "half" / "sweep.yaml", "--in-process", "--runs", runs, cwd=tmp_path)
    assert done.code == 0, done.err
    folder = RunFolder.local(runs, "half")
    after = folder.load_trial("min_recall/trial-000")
    assert (after.started_ms, after.ended_ms, after.select) == (
        before.started_ms,
        before.ended_ms,
        before.select,
    )
    document = here("show", "half", "--runs", runs, "--json").document
    assert document["state"] == "finished"
    assert document["progress"]["finished"] == 8
    old = expected(earlier, "half.json")
    if same_stack:
        assert contained(old["objectives"], document["objectives"]) == []
        assert contained(old["trials"], document["trials"]) == []
    assert folder.load_state().method == 1
