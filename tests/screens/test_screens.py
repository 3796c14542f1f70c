"""The screens of every verb at 80 and 120 columns, as they were read once by somebody.

Each is made from a stored document, so that only the layout and the words can change it. After a change:
``make screens``, then read what changed.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import options
from orchestrator.cli.main import VERBS, help_page
from orchestrator.cluster.doctor import DoctorDocument, doctor_text
from orchestrator.documents import from_document
from orchestrator.pins.export import ExportDocument, export_text
from orchestrator.pins.listing import PinsDocument, pins_text
from orchestrator.pins.predict import PredictDocument, predict_text
from orchestrator.pins.reproduce import ReproduceDocument, reproduction_text
from orchestrator.progress import Progress
from orchestrator.verbs.data import DataDocument, data_text
from orchestrator.verbs.diagnose import DiagnoseDocument, diagnosis_text
from orchestrator.verbs.evaluate import EvaluateDocument, evaluation_text
from orchestrator.verbs.ls import LsDocument, ls_text
from orchestrator.verbs.plan import PlanDocument, plan_text
from orchestrator.verbs.pretrain import PretrainDocument, pretrain_text
from orchestrator.verbs.recipes import RecipesDocument, recipes_text
from orchestrator.verbs.show import ShowDocument
from orchestrator.verbs.show_text import show_text
from orchestrator.verbs.validate import ValidateDocument, validation_text

HOME = Path(__file__).parent
WIDTHS = (80, 120)

SCREENS: dict[str, tuple[type[Any], Callable[[Any, int | None], str]]] = {
    "evaluate": (EvaluateDocument, evaluation_text),
    "validate": (ValidateDocument, validation_text),
    "data": (DataDocument, data_text),
    "plan": (PlanDocument, plan_text),
    "diagnose": (DiagnoseDocument, diagnosis_text),
    "doctor": (DoctorDocument, doctor_text),
    "pretrain": (PretrainDocument, pretrain_text),
    "ls": (LsDocument, ls_text),
    "recipes": (RecipesDocument, recipes_text),
    "show": (ShowDocument, show_text),
    "pins": (PinsDocument, pins_text),
    "reproduce": (ReproduceDocument, reproduction_text),
    "predict": (PredictDocument, predict_text),
    "export": (ExportDocument, export_text),
}
"""Verb -> its document and its text; the stored documents are named VERB or VERB_CASE."""

DOCUMENTS = sorted(path.stem for path in (HOME / "documents").glob("*.json"))


def document_of(name: str) -> tuple[Any, Callable[[Any, int | None], str]]:
    kind, text = SCREENS[name.partition("_")[0]]
    return from_document(kind, json.loads((HOME / "documents" / f"{name}.json").read_text())), text


def check_golden(name: str, width: int, text: str, update: bool) -> None:
    path = HOME / "golden" / f"{name}-{width}.txt"
    if update:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n")
    assert path.read_text() == text + "\n", f"{path.name} differs; if that is meant: make screens"


def characters(text: str) -> list[str]:
    """What stands on a screen, whatever its lines are."""
    return sorted("".join(text.split()))


def numbers(text: str) -> list[str]:
    return sorted(re.findall(r"[-+]?\d+\.\d", text))


def test_every_verb_has_its_screen() -> None:
    assert {name.partition("_")[0] for name in DOCUMENTS} == SCREENS.keys()
    # `recipes` is `ls --recipes`; these print an address, a path or a log, or only progress (below).
    assert VERBS.keys() - SCREENS.keys() == {"launch", "stop", "cp", "logs", "ui", "pin"}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_screen(name: str, width: int, update_screens: bool) -> None:
    document, text = document_of(name)
    shown = text(document, width)
    check_golden(name, width, shown, update_screens)
    # A link is never broken: it could not be clicked.
    assert max(len(line) for line in shown.splitlines() if "/#/" not in line) <= width
    assert not any(line != line.rstrip() for line in shown.splitlines())
    whole = text(document, None)
    # Nothing is cut off. A narrow table of results has the labels by their initials, and no cross-fitted scores.
    abbreviated = "labels used: t train" in shown
    left_out = "  cross-fitted  " in whole and "  cross-fitted  " not in shown
    assert not Counter(numbers(shown)) - Counter(numbers(whole))
    assert left_out or numbers(shown) == numbers(whole)
    assert abbreviated or left_out or characters(shown) == characters(whole)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_without_a_terminal_lines_stay_whole(name: str) -> None:
    document, text = document_of(name)
    assert len(text(document, None).splitlines()) <= len(text(document, 80).splitlines())


@pytest.mark.parametrize("width", WIDTHS)
def test_the_help_page(width: int, update_screens: bool) -> None:
    page = help_page(width)
    check_golden("help", width, page, update_screens)
    assert max(map(len, page.splitlines())) <= width
    assert characters(page) == characters(help_page(None))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("verb", VERBS)
def test_the_help_page_of_a_verb(
    verb: str, width: int, update_screens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    page = getattr(options, verb)().format_help().rstrip("\n")
    check_golden(f"help_{verb}", width, page, update_screens)
    assert max(map(len, page.splitlines())) <= width


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def run_of(progress: Progress) -> None:
    """What a launch says of itself."""
    progress.say("digits: started in this process, driven by process 4242 on laptop")
    progress.phase("search", 3)
    for number, state in enumerate(("FINISHED", "FAILED", "FINISHED")):
        progress.started()
        if state == "FAILED":
            progress.warn(
                f"min_recall/trial-{number:03d} failed: ValueError: the loss of a batch must be finite, got nan"
            )
        progress.ended(f"min_recall/trial-{number:03d}", state, 0.9 if state == "FINISHED" else None, 4.25)
    progress.say("stopping: what is finished is kept, launch again to resume (a second signal stops at once)")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_progress_of_a_launch(width: int, update_screens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    stream = Terminal()
    run_of(Progress(stream=stream))
    # The live line is drawn over itself; what stays are the lines of events.
    stays = [line.rpartition("\r")[2] for line in stream.getvalue().split("\n")]
    check_golden("launch", width, "\n".join(stays).rstrip("\n"), update_screens)
    assert max(map(len, stays)) <= width


def test_progress_without_a_terminal_is_a_line_per_event(update_screens: bool) -> None:
    stream = io.StringIO()
    run_of(Progress(stream=stream))
    check_golden("launch_in_a_file", 120, stream.getvalue().rstrip("\n"), update_screens)
    assert "\r" not in stream.getvalue()
