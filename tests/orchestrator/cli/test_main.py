"""The command line: verbs, exit codes of errors, and signals."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main as module
from orchestrator.cli import options
from orchestrator.cli.main import GROUPS, VERBS, help_page, main
from orchestrator.errors import NotFound, NotReproduced, PreflightError, SelmixError, SpecError, UsageError
from orchestrator.signals import Stopped
from selmix import __version__
from tests.command import SMOKE, environment, here


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets the verb ``pins`` raise an error; gives the exit code."""

    def call(error: BaseException) -> int:
        def verb(_options: argparse.Namespace) -> int:
            raise error

        monkeypatch.setitem(module.VERBS, "pins", (options.pins, verb))
        return main(["pins"])

    return call


def test_help_is_the_same_page_however_it_is_asked_for() -> None:
    for arguments, code in ((("--help",), 0), (("-h",), 0), (("help",), 0), ((), 2)):
        done = here(*arguments)
        assert (done.code, done.out, done.err) == (code, help_page(None) + "\n", "")


def test_every_verb_is_on_the_page_once() -> None:
    commands = [command.split()[0] for commands in GROUPS.values() for command in commands]
    assert set(commands) == set(VERBS)
    assert {verb for verb in VERBS if commands.count(verb) > 1} == {"data", "ls"}  # with an action each


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb: str) -> None:
    done = here(verb, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"usage: selmix {verb}")
    assert f"$ selmix {verb}" in done.out


def test_an_unknown_verb_and_wrong_flags_are_usage() -> None:
    assert here("lunch").err == "selmix: unknown verb 'lunch'; did you mean launch?\n"
    for arguments in (
        ("lunch",),
        ("show",),
        ("show", "a", "b"),
        ("ls", "--nothing"),
        ("ui", "--port", "x"),
        ("data", "x"),
    ):
        done = here(*arguments)
        assert (done.code, done.out) == (2, "")
        assert done.err


def test_a_flag_is_never_abbreviated() -> None:
    # A flag that is added later would change what the abbreviation means.
    assert "--js" in here("ls", "--js").err
    assert here("ls", "--js").code == 2


@pytest.mark.parametrize("kind", [UsageError, PreflightError, NotReproduced, NotFound])
def test_an_error_ends_with_its_own_code_and_words(
    kind: type[SelmixError], raising: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(kind("here: must be so")) == kind.exit_code
    assert capsys.readouterr() == ("", "selmix: here: must be so\n")


def test_problems_of_a_file_are_lines(raising: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(SpecError(["f.yaml:1: a: x", "f.yaml:2: b: y"])) == 3
    assert capsys.readouterr().err == "selmix: f.yaml:1: a: x\nf.yaml:2: b: y\n"


def test_signals_end_with_the_codes_of_a_shell(raising: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert [raising(error) for error in (KeyboardInterrupt(), Stopped(2), Stopped(15))] == [130, 130, 143]
    assert capsys.readouterr().err == "selmix: interrupted\n" * 3


def test_a_bug_is_no_message_of_the_users(raising: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError())


def test_modules_of_the_working_folder_can_be_named_in_a_sweep_file(tmp_path: Path) -> None:
    (tmp_path / "own_objective_of_a_test.py").write_text(
        "def mean(c):\n    return (c.diagonal() / c.sum(1)).mean()\n"
    )
    own = ("objectives=['own_objective_of_a_test:mean']", "selection.metric=mean_recall")
    assert here("validate", SMOKE, *own, cwd=tmp_path).code == 0


def test_the_version_without_scripts() -> None:
    command = [sys.executable, "-m", "orchestrator.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"selmix {__version__}\n", "")
    assert here("--version").out == done.stdout


ENDINGS = """
import atexit, sys, threading, time

def late():
    time.sleep(0.3)
    print("the thread")

atexit.register(print, "the handler")
threading.Thread(target=late).start()
sys.argv = ["selmix", "--version"]
from orchestrator.cli.main import command
command()
"""


@pytest.mark.parametrize("watched", [[], ["-m", "cProfile"]])
def test_what_must_be_done_at_the_end_is_done(watched: list[str], tmp_path: Path) -> None:
    """Also where the interpreter is not taken apart; a profiler still has its end."""
    (tmp_path / "program.py").write_text(ENDINGS)
    done = subprocess.run(
        [sys.executable, *watched, "program.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0].startswith("selmix ")
    assert lines.index("the thread") < lines.index("the handler")
    assert ("function calls" in done.stdout) == bool(watched)
