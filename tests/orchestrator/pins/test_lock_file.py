"""The lock file of a pin: sealed section by section, read back, and listed also where it is damaged."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.documents import Document, to_document
from orchestrator.errors import NotFound, PreflightError
from orchestrator.pins.listing import pins_document, pins_text
from orchestrator.pins.lock_file import (
    OPTIONAL,
    REQUIRED,
    Pin,
    PinnedBaseline,
    PinnedOpening,
    PinnedSweep,
    PinnedVerdict,
    PinnedVerdicts,
    Protocol,
    Registered,
    broken_sections,
    digest,
    pin_path,
    read_pin,
    sealed,
    typed_pin,
    weights_beside,
    write_pin,
)
from orchestrator.provenance import Environment
from orchestrator.records.types import Figure
from orchestrator.results.rows import MoreLabels, VerdictOutcome, bounds_of_constraints

METRICS = {"min_recall": Figure(0.8, 0.6, 0.9), "accuracy": Figure(0.9, 0.85, 0.95)}
PIN = Pin(
    schema_version=1, name="größe", created="2026-11-25T23:42:08+00:00", sweep=PinnedSweep("s", "1" * 16, "sha256:0"),
    objective="min_recall", trial_id="min_recall/trial-000", is_winner=True, seed=0, round=3, config={"lr": 0.03},
    protocol=Protocol({"name": "gaussians"}, ["a", "b"], [8], {}, {}, [], {}, {"metric": "min_recall"}, 0, 1),
    base={"recipe": "erm"}, digests={"train": "sha256:1", "weights": "sha256:2"}, select=METRICS, test=METRICS,
    replicates={"split": "test", "seeds": []},
    baselines={"untouched": PinnedBaseline(METRICS, METRICS, ["train"], False, 0.0)},
    verdict=PinnedVerdicts(None, PinnedVerdict("tied", "untouched", Figure(0.01, -0.1, 0.2))),
    environment=Environment(python="3.11"), mlflow=Registered("sqlite:///x", "1", "s", "1", "größe"),
)  # fmt: skip
DOCUMENT = sealed(to_document(PIN))


def written(pins: Path, document: Document = DOCUMENT, name: str = "kept") -> Path:
    write_pin(pin_path(pins, name), document)
    return pin_path(pins, name)


def without(document: Document, *keys: str) -> Document:
    return {key: value for key, value in document.items() if key not in keys}


def test_a_pin_comes_back_as_it_was_written_and_whole(tmp_path: Path) -> None:
    path = written(tmp_path / "pins")
    document = read_pin(path.parent, "kept")
    assert document == DOCUMENT
    assert list(document) == [*REQUIRED, *OPTIONAL]
    assert broken_sections(document) == []
    pin = typed_pin(path, document)
    assert {**to_document(pin), "digests": None} == {**to_document(PIN), "digests": None}
    assert pin.metric == "min_recall"
    # A line per number, so that a diff shows the one that changed.
    assert "test:\n  min_recall:\n    value: 0.8\n" in path.read_text()
    assert path.read_text().startswith("# Written by `selmix pin`")
    assert weights_beside(path).name == "kept.safetensors"


def test_sealing_again_changes_nothing_whatever_the_order_of_the_keys() -> None:
    assert sealed(DOCUMENT) == DOCUMENT
    assert sealed(dict(reversed(list(DOCUMENT.items())))) == DOCUMENT
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 2.5})


@pytest.mark.parametrize("key", [key for key in (*REQUIRED, *OPTIONAL) if key != "digests"])
def test_an_edited_and_a_removed_section_are_reported_alone(key: str) -> None:
    assert broken_sections({**DOCUMENT, key: "edited"}) == [key]
    assert broken_sections(without(DOCUMENT, key)) == [key]


def test_a_pin_without_the_optional_key_is_whole(tmp_path: Path) -> None:
    earlier = sealed(without(to_document(PIN), "method"))
    assert "method" not in earlier["digests"]["sections"]
    assert broken_sections(earlier) == []
    assert typed_pin(written(tmp_path, earlier), earlier).method == 1


def forged(change: Callable[[dict[str, Any]], object]) -> Document:
    """The pin with its digests changed by hand."""
    digests = {**DOCUMENT["digests"], "sections": dict(DOCUMENT["digests"]["sections"])}
    change(digests)
    return {**DOCUMENT, "digests": digests}


@pytest.mark.parametrize(
    ("document", "broken"),
    [
        (forged(lambda digests: digests.update(weights="sha256:9")), ["digests"]),
        (forged(lambda digests: digests["sections"].update(seed=digest(1))) | {"seed": 1}, ["digests"]),
        (forged(lambda digests: digests["sections"].pop("method")), ["digests", "method"]),
        (without(forged(lambda digests: digests["sections"].pop("method")), "method"), ["digests"]),
        (forged(lambda digests: digests.pop("pin")), ["digests"]),
        (forged(lambda digests: digests.update(sections=[])), ["digests"]),
        (without(DOCUMENT, "digests"), ["digests"]),
        ({**DOCUMENT, "added": 1}, ["added"]),
        ({**DOCUMENT, "seed": 1, "name": "x"}, ["name", "seed"]),
    ],
)
def test_digests_that_were_edited_too_do_not_help(document: Document, broken: list[str]) -> None:
    assert broken_sections(document) == broken


@pytest.mark.parametrize(
    ("pattern", "edit", "broken"),
    [
        (r"created: '(.*)'", r"created: \1", ["created"]),
        ("lr: 0.03", "lr: !!set {a}", ["config"]),
        ("seed: 0", "seed: !!binary aGk=", ["seed"]),
        ("train: sha256:1", "train: 2026-11-25", ["digests"]),
        (r"\Z", "2026-11-25: x\n1: y\n", ["2026-11-25", "1"]),
    ],
)
def test_what_yaml_reads_and_json_has_not_is_an_edit(
    tmp_path: Path, pattern: str, edit: str, broken: list[str]
) -> None:
    """As where the quotes around a date were removed."""
    path = written(tmp_path)
    path.write_text(re.sub(pattern, edit, path.read_text(), count=1))
    assert broken_sections(read_pin(tmp_path, "kept")) == broken


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: [", "must be a readable pin: "),
        (b"a: \xff", "must be a readable pin: "),
        (b"a: 2026-13-45", "must be a readable pin: "),
        (b"[]", "must be a pin of schema_version 1"),
        (b"schema_version: 2", "must be a pin of schema_version 1"),
    ],
)
def test_a_file_that_is_no_pin_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(PreflightError, match=rf"x\.yaml: {says}") as caught:
        read_pin(tmp_path, "x")
    assert "\n" not in str(caught.value)


def test_a_name_without_a_pin_is_answered_with_the_names_there_are(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"kept\.yaml: no such pin; there are: none"):
        read_pin(tmp_path / "nowhere", "kept")
    written(tmp_path)
    written(tmp_path, name="other")
    with pytest.raises(NotFound, match=r"did you mean kept\?"):
        read_pin(tmp_path, "kep")
    with pytest.raises(NotFound, match="there are: kept, other"):
        read_pin(tmp_path, "zzz")


def test_a_missing_key_and_another_type_are_named_in_one_line(tmp_path: Path) -> None:
    for document, says in (
        (without(DOCUMENT, "select"), "select Field required"),
        ({**DOCUMENT, "seed": "x"}, "seed "),
    ):
        with pytest.raises(PreflightError, match=f"must be a complete pin: {says}") as caught:
            typed_pin(tmp_path / "x.yaml", document)
        assert "\n" not in str(caught.value)


def test_one_damaged_pin_hides_no_other(tmp_path: Path) -> None:
    written(tmp_path, {**DOCUMENT, "seed": 9}, "b")
    written(
        tmp_path,
        sealed({**DOCUMENT, "is_winner": False, "verdict": to_document(PinnedVerdicts(None, None))}),
        "c",
    )
    (tmp_path / "a.yaml").write_text("[]")
    damaged, edited, chosen = pins_document(tmp_path).pins
    assert (damaged.name, damaged.test) == ("a", None)
    assert damaged.problem is not None
    assert (edited.edited, chosen.edited) == (["seed"], [])
    assert (edited.test, edited.metric) == (METRICS["min_recall"], "min_recall")
    text = pins_text(pins_document(tmp_path), None).splitlines()
    assert text[2].strip().startswith("unreadable: ")
    assert [line.strip() for line in text[4:]] == [
        "on test tied with untouched, by the earlier rule, +1.0 [-10.0, +20.0] pp",
        "EDITED since it was written: seed",
        text[6].strip(),
        "not the winner of its sweep",
    ]
    assert text[6].split()[:3] == ["größe", "s", "trial-000"]


def listed(tmp_path: Path, **changes: Any) -> list[str]:
    """Lines below a pin of this version with these changes."""
    written(tmp_path, sealed(to_document(replace(PIN, **changes))))
    (row,) = pins_document(tmp_path).pins
    assert row.problem is None
    return [line.strip() for line in pins_text(pins_document(tmp_path), None).splitlines()[2:]]


FLOOR = {
    "metric": "min_coverage",
    "class": None,
    "at_least": 0.12,
    "at_most": None,
    "in": ["method", "search"],
}
CEILING = {"metric": "cost", "class": None, "at_least": None, "at_most": 0.5, "in": ["search"]}
OF_CLASS = {"metric": "recall", "class": 1, "at_least": 0.5, "at_most": None, "in": ["search"]}


@pytest.mark.parametrize(
    ("constraints", "values", "says"),
    [
        ([FLOOR], {"min_coverage": 0.0974}, ["breaks its bound on test: min_coverage 9.7 % (>= 12 %)"]),
        ([FLOOR], {"min_coverage": 0.12}, []),
        ([FLOOR], {"min_coverage": 0.12 - 1e-12}, []),
        # As many decimals as it takes to see it.
        ([FLOOR], {"min_coverage": 0.11996}, ["breaks its bound on test: min_coverage 11.996 % (>= 12 %)"]),
        ([CEILING], {"cost": 0.5214}, ["breaks its bound on test: cost 0.521 (<= 0.5)"]),
        ([OF_CLASS], {"recall/b": 0.4}, ["breaks its bound on test: recall/b 40.0 % (>= 50 %)"]),
        ([{**OF_CLASS, "class": "b"}], {"recall/b": 0.4}, ["breaks its bound on test: recall/b 40.0 % (>= 50 %)"]),
        (
            [FLOOR, CEILING],
            {"min_coverage": 0.1, "cost": 1.25},
            ["breaks its bounds on test: min_coverage 10.0 % (>= 12 %), cost 1.250 (<= 0.5)"],
        ),
        # One that acts inside the method alone promises nothing.
        ([{**FLOOR, "in": ["method"]}], {"min_coverage": 0.1}, []),
    ],
)  # fmt: skip
def test_a_pin_that_breaks_its_bounds_on_test_says_so(
    tmp_path: Path, constraints: list[Document], values: dict[str, float], says: list[str]
) -> None:
    test = METRICS | {key: Figure(value, value - 0.1, value + 0.1) for key, value in values.items()}
    earlier = replace(PIN.protocol, constraints=constraints)
    tied = "on test tied with untouched, by the earlier rule, +1.0 [-10.0, +20.0] pp"
    assert listed(tmp_path, protocol=earlier, test=test) == [tied, *says]
    # In pins of this version with the bounds of the objective.
    bounds = bounds_of_constraints(constraints, ["a", "b"])
    protocol = replace(earlier, constraints=[], bounds=bounds)
    assert listed(tmp_path, protocol=protocol, test=test) == [tied, *says]


def test_bounds_of_an_edited_pin_are_not_judged(tmp_path: Path) -> None:
    edited = {**DOCUMENT, "protocol": {**DOCUMENT["protocol"], "constraints": [{"metric": 5}]}}
    written(tmp_path, edited)
    (row,) = pins_document(tmp_path).pins
    assert (row.problem, row.edited, row.broken) == (None, ["protocol"], [])


def test_a_pin_of_a_cost_is_listed_in_its_unit(tmp_path: Path) -> None:
    cost = replace(PIN.protocol, selection={"metric": "cost"})
    verdict = replace(
        PIN.verdict, test=replace(PIN.verdict.test, difference=Figure(0.0125, -0.1, 0.2), margin=0.04)
    )
    test = {"cost": Figure(0.521, 0.4, 1.63)}
    (line,) = listed(tmp_path, protocol=cost, test=test, verdict=verdict)
    assert line == "on test tied with untouched, +0.013 [-0.100, +0.200]"
    head, row, _ = pins_text(pins_document(tmp_path), None).splitlines()
    assert head.split() == ["pin", "sweep", "trial", "metric", "test", "created"]
    assert "  0.521 [0.400, 1.630]  " in row
    # Beside it a fraction says that it is one.
    written(tmp_path, DOCUMENT, "recall")
    assert "  80.0 [60.0, 90.0] %  " in pins_text(pins_document(tmp_path), None)


def test_rows_of_more_labels_stand_behind_the_verdict_of_a_pin(tmp_path: Path) -> None:
    more = MoreLabels(["last_layer_post_hoc_both", "selmix"], Figure(-0.013, -0.074, 0.05), True)
    higher = "; last_layer_post_hoc_both, of more labels, is higher: -1.3 [-7.4, +5.0] pp"
    better = replace(PIN.verdict.test, outcome="better", margin=0.02, more_labels=more)
    assert listed(tmp_path, verdict=PinnedVerdicts(None, better)) == [
        f"on test better than untouched, +1.0 [-10.0, +20.0] pp{higher}"
    ]
    alone = PinnedVerdicts(None, None, more_labels=more)
    assert listed(tmp_path, verdict=alone) == [f"on test without an opponent of no more labels{higher}"]
    lower = replace(better, more_labels=replace(more, is_higher=False))
    assert listed(tmp_path, verdict=PinnedVerdicts(None, lower)) == [
        "on test better than untouched, +1.0 [-10.0, +20.0] pp; none of the 2 rows of more labels is higher"
    ]


def test_a_folder_without_pins_names_the_command_that_writes_one(tmp_path: Path) -> None:
    assert "selmix pin SWEEP --name NAME" in pins_text(pins_document(tmp_path / "none"), 80)


@pytest.mark.parametrize("selection", [{"metric": "g_mean"}, {}])
def test_a_pin_with_an_edited_metric_is_listed_as_edited(tmp_path: Path, selection: Document) -> None:
    written(tmp_path, {**DOCUMENT, "protocol": {**DOCUMENT["protocol"], "selection": selection}})
    (row,) = pins_document(tmp_path).pins
    assert (row.problem, row.test, row.edited) == (None, None, ["protocol"])
    assert "EDITED since it was written: protocol" in pins_text(pins_document(tmp_path), None)


def test_a_pin_that_cannot_be_written_is_answered_with_advice_about_pins(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PreflightError, match="choose another --pins folder"):
        written(tmp_path / "file")


@pytest.mark.parametrize(
    ("outcome", "not_told_apart", "worse_than", "says"),
    [
        # `best` was chosen on select; the pin beats it, and is told apart neither from `near` nor from `far`.
        ("undecided", ["near", "far"], [], "cannot be told from near and 1 other, +1.0 [-2.0, +4.0] pp"),
        ("undecided", ["near"], [], "cannot be told from near, +1.0 [-2.0, +4.0] pp"),
        (
            "undecided",
            ["near", "best"],
            [],
            "cannot be told from best and 1 other, +9.0 [+1.0, +14.0] pp "
            "(not after correction for several comparisons)",
        ),
        ("worse", [], ["near"], "worse than near, +1.0 [-2.0, +4.0] pp"),
        ("better", [], [], "better than best, +9.0 [+1.0, +14.0] pp"),
    ],
)
def test_a_verdict_names_the_opponent_that_it_rests_on(
    tmp_path: Path, outcome: VerdictOutcome, not_told_apart: list[str], worse_than: list[str], says: str
) -> None:
    gap, near = Figure(0.09, 0.01, 0.14), Figure(0.01, -0.02, 0.04)
    verdict = PinnedVerdict(
        outcome, "best", gap, margin=0.02, differences={"best": gap, "near": near, "far": near},
        not_told_apart=not_told_apart, worse_than=worse_than, difference_corrected=gap, level_corrected=0.975,
    )  # fmt: skip
    opening = PinnedOpening("sha256:3", 1, False, "the second opening of these samples", ["größe"])
    verdicts = replace(PIN.verdict, test=verdict)
    line, caveat = listed(tmp_path, verdict=verdicts, test_opening=opening)
    assert line == f"on test {says}"
    of = "" if " best" in says else "best "
    assert caveat == f"the second opening of these samples; corrected {of}+9.0 [+1.0, +14.0] pp (at 97.5 %)"
