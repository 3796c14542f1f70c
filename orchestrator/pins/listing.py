"""Pins of a folder, as a list: what each is, what test said of it, and what speaks against relying on it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.documents import SCHEMA_VERSION
from orchestrator.errors import PreflightError
from orchestrator.messages import counted
from orchestrator.pins.lock_file import (
    BrokenBound,
    PinnedOpening,
    PinnedVerdict,
    broken_on_test,
    broken_sections,
    pin_path,
    read_pin,
    typed_pin,
)
from orchestrator.records.types import Figure
from orchestrator.results.rows import MoreLabels, beyond, corrected_for, rests_on, said
from orchestrator.table import (
    PERCENT,
    Column,
    Unit,
    difference,
    estimate,
    paragraph,
    sentence,
    short,
    table,
    unit_of,
)


@dataclass(frozen=True)
class PinRow:
    """Summary of a pin.

    Attributes:
        name: name of the pin.
        problem: reason why it cannot be read; then every other attribute is None.
        created: time of its creation.
        sweep: name of its sweep.
        objective: objective of the pinned trial.
        trial_id: the pinned trial.
        is_winner: False for a trial that ``--trial`` named.
        metric: metric that it was selected by.
        test: that metric on test, with its interval; None also where an edited pin names a metric that it has not.
        verdict: verdict on test; None where there was no baseline.
        edited: sections that were edited since the pin was written.
        test_opening: the opening of test that it was measured at; None in pins of earlier versions.
        broken: bounds of the search that it breaks on test.
        more_labels: of a model without an opponent the rows of more labels, on test.
    """

    name: str
    problem: str | None = None
    created: str | None = None
    sweep: str | None = None
    objective: str | None = None
    trial_id: str | None = None
    is_winner: bool | None = None
    metric: str | None = None
    test: Figure | None = None
    verdict: PinnedVerdict | None = None
    edited: list[str] | None = None
    test_opening: PinnedOpening | None = None
    broken: list[BrokenBound] = field(default_factory=list)
    more_labels: MoreLabels | None = None


@dataclass(frozen=True, kw_only=True)
class PinsDocument:
    """Pins of a folder, sorted by name."""

    schema_version: int = SCHEMA_VERSION
    pins: list[PinRow]


def pins_document(pins: Path) -> PinsDocument:
    """Summarise the pins of a folder; one that cannot be read is listed with its problem."""
    return PinsDocument(pins=[_pin_row(pins, path) for path in sorted(pins.glob("*.yaml"))])


def _pin_row(pins: Path, path: Path) -> PinRow:
    try:
        document = read_pin(pins, path.stem)
        pin = typed_pin(path, document)
    except PreflightError as error:
        return PinRow(path.stem, str(error))
    edited = broken_sections(document)
    # What was edited may have lost its form, and proves nothing.
    broken = [] if {"protocol", "test"} & set(edited) else broken_on_test(pin)
    return PinRow(
        pin.name, None, pin.created, pin.sweep.name, pin.objective, pin.trial_id, pin.is_winner, pin.metric,
        pin.test.get(pin.metric), pin.verdict.test, edited, pin.test_opening, broken,
        pin.verdict.more_labels,
    )  # fmt: skip


DEFAULT_PINS = Path("pins")
"""Folder of the pins where ``--pins`` is not given."""


def pins_flag(pins: Path) -> str:
    """``--pins FOLDER`` for a command that a message advises, with a blank before it; empty for the default folder."""
    return "" if pins == DEFAULT_PINS else f" --pins {shlex.quote(str(pins))}"


def pin_text(pins: Path, name: str, flags: str, width: int | None) -> str:
    """Text of a new pin: its verdict on test, and what to do with it.

    Args:
        pins: folder of the pins.
        name: name of the pin.
        flags: ``--runs`` and ``--pins`` for the commands that it advises, each with a blank before it.
        width: columns of the terminal; None: lines stay whole.
    """
    pin = _pin_row(pins, pin_path(pins, name))
    # It was written a moment ago: another process replaced it.
    if pin.problem is not None or pin.metric is None:
        return sentence(str(pin.problem), width)
    unit = unit_of(pin.metric)
    value = "" if pin.test is None else f" {estimate(pin.test, unit)}{unit.value} (95 % interval)"
    told = "; ".join(_notes(pin, unit))
    lines = [sentence(f"{name}: {pin.metric} on test{value}{f'; {told}' if told else ''}", width), ""]
    load = f'selmix.load_pin("{pin_path(pins, name)}") in Python: the model'
    steps = (f"selmix reproduce {name}{flags}: train it again and compare every number", load)
    lines += [paragraph("" if number else "next", step, width) for number, step in enumerate(steps)]
    return "\n".join(lines)


def pins_text(document: PinsDocument, width: int | None, flag: str = "") -> str:
    """Table of the pins, with the verdict on test below each.

    Args:
        document: the pins.
        width: columns of the terminal; None: lines stay whole.
        flag: ``--pins FOLDER`` with a blank before it; empty for the default folder.
    """
    if not document.pins:
        return sentence(f"no pins yet; selmix pin SWEEP{flag} --name NAME writes one", width)
    rows, notes = [], []
    # One column for all: where a metric has a unit of its own, the others say theirs.
    all_percent = all(unit_of(pin.metric) == PERCENT for pin in document.pins)
    for pin in document.pins:
        # One damaged pin must not hide the others.
        if pin.problem is not None or pin.trial_id is None:
            rows.append((pin.name, "", "", "", "", ""))
            notes.append([f"unreadable: {pin.problem}"])
            continue
        trial, created, unit = short(pin.trial_id), str(pin.created)[:10], unit_of(pin.metric)
        test = "" if pin.test is None else f"{estimate(pin.test, unit)}{'' if all_percent else unit.value}"
        rows.append((pin.name, str(pin.sweep), trial, str(pin.metric), test, created))
        notes.append(_notes(pin, unit))
    columns = (
        Column("pin"), Column("sweep"), Column("trial"), Column("metric"),
        Column("test, %" if all_percent else "test", right=True), Column("created"),
    )  # fmt: skip
    return table(columns, rows, width, notes)


def _notes(pin: PinRow, unit: Unit) -> list[str]:
    """Sentences below the row of a pin: verdict, bounds, opening and edits."""
    below = []
    if pin.verdict is not None:
        named, found = rests_on(pin.verdict)
        gap = f"{difference(found, unit)}{unit.difference}"
        rest = len(pin.verdict.not_told_apart) - 1 if pin.verdict.outcome == "undecided" else 0
        others = f" and {counted(rest, 'other')}" if rest > 0 else ""
        rule = ", by the earlier rule" if pin.verdict.margin is None else ""
        more = beyond(pin.verdict.more_labels, unit)
        gap += corrected_for(pin.verdict, found)
        below.append(f"on test {said(pin.verdict.outcome)} {named}{others}{rule}, {gap}{more}")
    elif pin.more_labels is not None:
        below.append(f"on test without an opponent of no more labels{beyond(pin.more_labels, unit)}")
    if pin.broken:
        its = "its bound" if len(pin.broken) == 1 else "its bounds"
        below.append(f"breaks {its} on test: {', '.join(each.shown for each in pin.broken)}")
    below += _caveats(pin.name, pin.test_opening, pin.verdict, unit)
    below += [] if pin.is_winner else ["not the winner of its sweep"]
    # An edited pin is no evidence.
    below += [f"EDITED since it was written: {', '.join(pin.edited)}"] if pin.edited else []
    return below


def _caveats(
    name: str, opening: PinnedOpening | None, verdict: PinnedVerdict | None, unit: Unit
) -> list[str]:
    """Caveats of the opening of test that a pin was measured at; empty for a first one of its own.

    Args:
        name: of the pin.
        opening: None in pins of earlier versions.
        verdict: on test; None without an opponent.
        unit: of the metric.
    """
    if opening is None:
        return []
    others = [other for other in opening.declared_together if other != name]
    reasons = [opening.note] if opening.note is not None else []
    reasons += [f"declared together with {', '.join(others)}"] if others else []
    if not reasons:
        return []
    corrected = ""
    if verdict is not None and verdict.difference_corrected is not None and verdict.level_corrected:
        gap = f"{difference(verdict.difference_corrected, unit)}{unit.difference}"
        # It is of the opponent that was chosen on select.
        of = "" if rests_on(verdict)[0] == verdict.against else f"{verdict.against} "
        corrected = f"; corrected {of}{gap} (at {100 * verdict.level_corrected:.4g} %)"
    return [f"{'; '.join(reasons)}{corrected}"]
