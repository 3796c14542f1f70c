"""Records and a pin that an earlier version wrote: shown, listed and reproduced by this one, and not gone on with.

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

from selmix import METHOD
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
    assert ", by the earlier rule: " in text.splitlines()[0]
    assert "by the earlier rule, against one baseline and without a margin" in text
    (listed,) = here("ls", "--runs", earlier / "finished", "--json").document["sweeps"]
    assert listed["sweep"] == "half"
    assert listed["objectives"]["min_recall"]["verdict"]["by_earlier_rule"]


def test_what_was_killed_is_shown(earlier: Path) -> None:
    document = here("show", "half", "--runs", earlier / "runs", "--json").document
    assert document["state"] == "stopped"
    states = {row["trial_id"].rpartition("/")[2]: row["state"] for row in document["trials"]}
    assert states == {"trial-000": "FINISHED", "trial-001": "FINISHED", "trial-002": "INTERRUPTED"}


def test_pins_are_listed(earlier: Path) -> None:
    document = here("pins", "--pins", earlier / "pins", "--json").document
    assert contained(expected(earlier, "pins.json"), document) == []

    assert (
        "on test tied with mislas_stage_two, by the earlier rule"
        in here("pins", "--pins", earlier / "pins").out
    )


def test_a_pin_is_reproduced(earlier: Path, tmp_path: Path) -> None:
    """Its weights are evaluated and the training is repeated, both within tolerance: the method has changed since."""
    done = here("reproduce", "before", "--pins", earlier / "pins", "--runs", tmp_path, "--json")
    assert done.code == 0, done.out
    assert not done.document["same_stack"]
    assert done.document["stack_differences"]["method"] == {"pinned": 1, "here": METHOD}
    compared = {row["what"]: row for row in done.document["compared"]}
    for split in ("train", "feedback", "select", "test"):
        assert compared[f"digests/{split}"]["equal"]
    assert compared["before.safetensors"]["equal"]
    # A value of the stored weights is equal but for rounding; the ends of its interval may be by another definition.
    values = [
        row for what, row in compared.items() if what.startswith("stored weights/") and what.endswith("value")
    ]
    assert len(values) == 2 * 17
    for row in values:
        assert row["got"] == pytest.approx(row["pinned"], abs=1e-6), row
    text = here("reproduce", "before", "--pins", earlier / "pins", "--runs", tmp_path).out
    assert text.startswith("before: reproduced; every metric is within tolerance (")
    assert f"other stack  method: pinned 1, here {METHOD}" in text
    for row in compared.values():
        assert row["equal"] or row["what"] in text, row


def test_a_half_run_sweep_of_another_method_is_not_gone_on_with(earlier: Path, tmp_path: Path) -> None:
    runs = earlier / "runs"
    before = {path: path.read_bytes() for path in (runs / "half").rglob("*") if path.is_file()}
    done = selmix("launch", runs / "half" / "sweep.yaml", "--in-process", "--runs", runs, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert (
        f"this sweep was begun with method 1, this is method {METHOD}: the bits of its runs would differ; finish it "
        "with the version that began it, or launch it under a new name (name=NEW)"
    ) in done.err
    assert {path: path.read_bytes() for path in (runs / "half").rglob("*") if path.is_file()} == before


def test_a_finished_sweep_of_another_method_is_finished(earlier: Path, tmp_path: Path) -> None:
    runs = earlier / "finished"
    stored = (runs / "half" / "results.json").read_bytes()
    done = selmix("launch", runs / "half" / "sweep.yaml", "--in-process", "--runs", runs, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "half is finished" in done.err
    # What an earlier rule decided is not judged again.
    assert (runs / "half" / "results.json").read_bytes() == stored
