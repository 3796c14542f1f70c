"""stdout carries results only, one text or one document; and files that cannot be written."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.cli.imports import heavy_imports
from orchestrator.cli.output import colour, emit, err, out
from tests.command import SMOKE, here


@dataclass
class Document:
    """A document with a text of its own."""

    zeta: int
    alpha: list[str]


def printed(capsys: pytest.CaptureFixture[str], json_wanted: bool) -> str:
    emit(
        argparse.Namespace(json=json_wanted),
        Document(1, ["ä"]),
        lambda each, width: f"{each.zeta} at {width}",
    )
    text, errors = capsys.readouterr()
    assert errors == ""
    return text


def test_a_document_or_its_text_in_the_width_of_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(json.loads(printed(capsys, True)).items()) == [("zeta", 1), ("alpha", ["ä"])]
    assert printed(capsys, False) == "1 at None\n"
    monkeypatch.setenv("COLUMNS", "72")
    assert printed(capsys, False) == "1 at 72\n"


def test_a_text_ends_with_one_newline(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("a", "a\n", ""):
        out(text)
    err("b\nc")
    assert capsys.readouterr() == ("a\na\n\n", "b\nc\n")


def test_colours_are_for_terminals_and_those_who_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert not colour()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert colour()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colour()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_left_as_it_was(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with contextlib.suppress(ImportError), heavy_imports():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


OUTPUTS = {
    "cp": ("cp", "smoke", "file/x"),
    "diagnose": ("diagnose", SMOKE, "parameters.steps.value=20", "pretrain.epochs=1", "-o", "file/x"),
    "pretrain": ("pretrain", SMOKE, "pretrain.epochs=1", "-q", "-o", "file/x/a.safetensors"),
}


@pytest.mark.filterwarnings("ignore")  # matters of MLflow's, on a store that begins empty
@pytest.mark.parametrize("verb", OUTPUTS)
def test_an_output_that_cannot_be_written_is_one_message(verb: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = here(*OUTPUTS[verb], cwd=tmp_path)
    assert done.code == 4
    assert "must be writable" in done.err
