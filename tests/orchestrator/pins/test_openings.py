"""What a pin says of the opening of test that it was measured at: the first, a later one, and several pins at once."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from orchestrator.documents import Document
from orchestrator.pins.lock_file import broken_sections, read_pin
from orchestrator.pins.pin import _verdicts_on_test
from orchestrator.records.types import Figure
from orchestrator.results.rows import MoreLabels, Verdict, beyond
from orchestrator.table import PERCENT
from selmix.statistics.openings import level_of_opening
from tests.command import Done, here
from tests.fakes.in_process import launch

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # matters of MLflow's, on a store that begins empty
    pytest.mark.usefixtures("few_baselines"),
]

TINY = (
    "objectives=[min_recall, g_mean]", "selection.metric=null", "search.num_trials=1", "selection.replicates=1",
    "selection.finalists=1", "pretrain.epochs=2", "parameters.steps.value=20",
)  # fmt: skip
NAMES = ["both-min_recall", "both-g_mean"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep of two objectives, of which nothing is pinned."""
    home = tmp_path_factory.mktemp("openings")
    done = launch(home / "runs", *TINY)
    assert done.code == 0, done.err
    return home


def copy_of(sweep: Path, name: str) -> None:
    """The sweep again under another name and id, as if it had been launched twice."""
    other = shutil.copytree(sweep, sweep.parent / name)
    for file, keys in (("sweep.json", {"sweep_id": "f" * 16, "test_openings": []}), ("spec.json", {})):
        path = other / file
        path.write_text(json.dumps(json.loads(path.read_text()) | keys | {"name": name}))


def pin(home: Path, sweep: str, name: str, *more: str) -> Done:
    done = here("pin", sweep, "--name", name, *more, cwd=home)
    assert done.code == 0, done.err
    return done


def pinned(home: Path, name: str) -> Document:
    document = read_pin(home / "pins", name)
    assert broken_sections(document) == []
    return document


def width(figure: dict[str, Any]) -> float:
    return float(figure["high"] - figure["low"])


def ledger(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / "runs" / "openings.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_pins_say_which_opening_of_test_they_were_measured_at(home: Path) -> None:
    refused = here("pin", "smoke", "--name", "both", cwd=home)
    assert (refused.code, refused.out) == (2, "")
    assert "give it several times to declare their pins together" in refused.err
    assert not (home / "runs" / "openings.jsonl").exists()

    # Two objectives are one opening, the first one; Holm's procedure is among the two.
    done = pin(home, "smoke", "both", "--objective", "min_recall", "--objective", "g_mean")
    assert done.out.split() == [f"pins/{name}.yaml" for name in NAMES]
    # Each says what it is on test, and nothing of an opening before.
    said = [line for line in done.err.splitlines() if " on test " in line]
    assert [line.partition(" on test ")[0] for line in said] == [
        "both-min_recall: min_recall",
        "both-g_mean: g_mean",
    ]
    assert "not confirmatory" not in done.err
    opened = [pinned(home, name) for name in NAMES]
    assert [line["t"] for line in ledger(home)] == [1]
    assert (ledger(home)[0]["pins"], ledger(home)[0]["objectives"]) == (NAMES, ["min_recall", "g_mean"])
    for document in opened:
        assert document["test_opening"] == {
            "content_digest": ledger(home)[0]["content"], "openings_before": 0, "confirmatory": True, "note": None,
            "declared_together": NAMES, "share_seen": 0.0,
        }  # fmt: skip
        assert document["digests"]["preprocess"].startswith("sha256:")
    verdicts = [document["verdict"]["test"] for document in opened]
    # Only the one that is left after the other was told apart may have the plain level.
    assert 0.975 in [verdict["level_corrected"] for verdict in verdicts]
    for verdict in verdicts:
        if verdict["level_corrected"] is not None:
            assert width(verdict["difference_corrected"]) > width(verdict["difference"])
    assert [document["verdict"]["select"]["difference_corrected"] for document in opened] == [None, None]

    # Another sweep with the same test split, and a pin of before that is replaced.
    copy_of(home / "runs" / "smoke", "again")
    for before, (sweep, name, *more) in enumerate(
        (("again", "late"), ("smoke", "both-g_mean", "--force")), start=1
    ):
        done = pin(home, sweep, name, "--objective", "g_mean", *more)
        note = f"test seen {before} time{'s' if before > 1 else ''} before: not confirmatory"
        assert done.err.startswith(f"selmix: {name}: {note}\n\n{name}: ")
        document = pinned(home, name)
        assert document["test_opening"] == {
            "content_digest": ledger(home)[0]["content"], "openings_before": before, "confirmatory": False,
            "note": note, "declared_together": [name], "share_seen": 1.0,
        }  # fmt: skip
        verdict = document["verdict"]["test"]
        assert verdict["level_corrected"] == level_of_opening(before)
        assert width(verdict["difference_corrected"]) > width(verdict["difference"])
        # What was measured is the same as at the first opening.
        assert (document["test"], verdict["difference"]) == (
            opened[1]["test"],
            opened[1]["verdict"]["test"]["difference"],
        )
    assert [line["t"] for line in ledger(home)] == [1, 2, 3]
    # The other pin of the first opening is as it was.
    assert pinned(home, "both-min_recall") == opened[0]

    listed = here("pins", cwd=home).out
    assert "declared together with both-g_mean; corrected " in listed
    assert "test seen 2 times before: not confirmatory; corrected " in listed
    assert "pp (at 99.17 %)" in listed
    rows = {row["name"]: row for row in here("pins", "--json", cwd=home).document["pins"]}
    assert rows["late"]["test_opening"]["openings_before"] == 1

    done = here("reproduce", "late", cwd=home)
    assert (done.code, done.err) == (0, "")
    assert [(line["verb"], line["sweep"], line["t"]) for line in ledger(home)][-1] == (
        "reproduce",
        "again",
        4,
    )
    shown = here("show", "smoke", "--json", cwd=home).document
    assert [seen["by"] for seen in shown["test_seen"]] == [
        "pin both-min_recall both-g_mean", "pin late", "pin both-g_mean", "reproduce late",
    ]  # fmt: skip
    assert [opening["by"] for opening in shown["test_openings"]] == [
        "pin both-min_recall both-g_mean",
        "pin both-g_mean",
    ]
    text = here("show", "smoke", cwd=home).out
    assert "seen 4 times, first by pin both-min_recall both-g_mean of smoke on " in text
    assert "a further pin is not confirmatory" in text

    # A damaged record stops the next opening, and hides no result.
    with (home / "runs" / "openings.jsonl").open("a") as file:
        file.write("{\n")
    done = here("pin", "again", "--name", "never", "--objective", "g_mean", cwd=home)
    assert (done.code, done.out) == (4, "")
    assert "runs/openings.jsonl:5: must be a JSON object with an opening of a test split" in done.err
    assert not (home / "pins" / "never.yaml").exists()
    assert "cannot tell how often it was seen: runs/openings.jsonl:5" in here("show", "smoke", cwd=home).out


@dataclass(frozen=True)
class Side:
    """A pin on test with a normal difference from its opponent, in place of one that was evaluated."""

    z: float
    against: str | None = "untouched"
    shipped, opposing, on_test, opposing_runs = "our file", "their file", "our runs", "their runs"
    # The second is the best on select, the first the highest on test.
    beyond_test = MappingProxyType({"higher on select": "its file", "dearer": "another file"})
    beyond_runs = MappingProxyType({"higher on select": "its runs", "dearer": "other runs"})

    @property
    def judge(self) -> Any:
        return SimpleNamespace(judged=self.judged, paired=self.paired)

    def paired(self, ours: str, theirs: str) -> Figure:
        value = {
            (self.shipped, "its file"): 0.5, (self.shipped, "another file"): -0.5,
            (self.on_test, "its runs"): 0.75, (self.on_test, "other runs"): 0.25,
        }[ours, theirs]  # fmt: skip
        return Figure(value, value - 1.0, value + 1.0)

    def judged(self, ours: str, theirs: str, against: str, split: str, level: float = 0.95) -> Verdict:
        assert (against, split) == (self.against, "test")
        assert (ours, theirs) in ((self.shipped, self.opposing), (self.on_test, self.opposing_runs))
        half = NormalDist().inv_cdf(0.5 + level / 2)
        # Of the means over seeds the difference is another one.
        z = self.z if ours == self.shipped else 0.0
        outcome: Any = "better" if z > half else "worse" if z < -half else "undecided"
        gap = Figure(z, z - half, z + half)
        apart = [] if outcome == "undecided" else [against]
        return Verdict(
            outcome, against, gap, split, False, margin=0.02, differences={against: gap},
            not_told_apart=[] if apart else [against], worse_than=apart if outcome == "worse" else [], samples=9,
        )  # fmt: skip


def verdicts(before: int, **sides: Side) -> dict[str, tuple[str, float | None]]:
    made = _verdicts_on_test(sides, before)  # type: ignore[arg-type]
    assert made.keys() == sides.keys()
    for name, (verdict, procedure) in made.items():
        if verdict is None:
            assert procedure is None
            continue
        assert procedure is not None
        # The plain interval stands in every pin.
        assert verdict.difference.high - verdict.difference.value == pytest.approx(1.96, abs=1e-3)
        assert verdict.differences == {verdict.against: verdict.difference}
        assert (verdict.difference_corrected is None) == (verdict.level_corrected is None)
        assert verdict.against == sides[name].against
        # What is not told apart is so at the level of the claim.
        assert (verdict.not_told_apart == []) == (verdict.outcome != "undecided")
        assert (verdict.optimistic, verdict.margin, verdict.samples) == (False, 0.02, 9)
        # Rows of more labels stand beside both, file against file and means against means.
        assert verdict.more_labels == MoreLabels(
            ["higher on select", "dearer"], Figure(0.5, -0.5, 1.5), False,
            {"higher on select": Figure(0.5, -0.5, 1.5), "dearer": Figure(-0.5, -1.5, 0.5)},
        )  # fmt: skip
        assert beyond(verdict.more_labels, PERCENT) == (
            "; 1 of the 2 rows of more labels is higher, dearer most: -50.0 [-150.0, +50.0] pp"
        )
        assert procedure.more_labels is not None
        assert (procedure.more_labels.difference.value, procedure.more_labels.is_higher) == (0.75, False)
        assert beyond(procedure.more_labels, PERCENT) == "; none of the 2 rows of more labels is higher"
        # The procedure stands beside it, and claims nothing of its own.
        assert (procedure.outcome, procedure.difference.value, procedure.level_corrected) == (
            "undecided",
            0.0,
            None,
        )
    return {
        name: ("", 0.0) if shipped is None else (shipped.outcome, shipped.level_corrected)
        for name, (shipped, _) in made.items()
    }


def test_verdicts_by_hand() -> None:
    """Two-sided p-values: z 3.30 has .0010, 2.18 has .029, 2.07 has .038, -2.50 has .012."""
    clear, weak, weaker, worse = Side(3.30), Side(2.18), Side(2.07), Side(-2.50)
    # One claim at the first opening: nothing is corrected, and one without an opponent is no claim.
    assert verdicts(0, a=weak) == {"a": ("better", None)}
    assert verdicts(0, a=weak, b=Side(0.0, None)) == {"a": ("better", None), "b": ("", 0.0)}
    # .001 <= .05 / 2 leaves, then .029 <= .05; but of .029 and .038 neither is below .025.
    assert verdicts(0, a=clear, b=weak) == {"a": ("better", 0.975), "b": ("better", None)}
    assert verdicts(0, a=weaker, b=weak) == {"a": ("undecided", 0.975), "b": ("undecided", 0.975)}
    assert verdicts(0, a=worse, b=weak) == {"a": ("worse", 0.975), "b": ("better", None)}
    # Later the outcome is the same, and the second interval that of .05 / 6, .05 / 12, ...
    assert verdicts(1, a=weak) == {"a": ("better", level_of_opening(1))}
    later = verdicts(2, a=clear, b=weak)
    assert [outcome for outcome, _ in later.values()] == ["better", "better"]
    # .001 <= .05 / 12 / 2 leaves, then .029 > .05 / 12.
    assert [level for _, level in later.values()] == pytest.approx([1 - 0.05 / 24, 1 - 0.05 / 12])
