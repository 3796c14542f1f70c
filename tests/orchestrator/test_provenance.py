"""Provenance of a result: commit, packages and hardware, also where some of them are unknown."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.documents import to_document
from orchestrator.provenance import (
    SUBMISSION,
    Environment,
    GitState,
    Hardware,
    Submission,
    environment,
    git_state,
    submission,
)
from selmix import METHOD


def git(monkeypatch: pytest.MonkeyPatch, answers: Callable[[str, list[str]], str | None]) -> None:
    """Answer instead of git: (folder, arguments) -> output; None: there is no checkout."""

    real = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        if command[0] != "git":
            return real(command, **options)
        output = answers(command[2], command[3:])
        return subprocess.CompletedProcess(command, 0 if output is not None else 128, output or "", "")

    monkeypatch.setattr(subprocess, "run", run)


@pytest.mark.parametrize(("changes", "dirty"), [("", False), (" M file.py\n", True)])
def test_a_checkout_is_dirty_by_its_own_files_alone(
    monkeypatch: pytest.MonkeyPatch, changes: str, dirty: bool
) -> None:
    asked = []

    def answers(_folder: str, arguments: list[str]) -> str:
        asked.append(arguments)
        return changes if arguments[0] == "status" else "abc123\n"

    git(monkeypatch, answers)
    assert git_state() == GitState("abc123", dirty)
    assert "--untracked-files=no" in asked[-1]


def test_the_working_folder_counts_before_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    git(monkeypatch, lambda folder, _: None if folder == str(tmp_path) else "of the package")
    assert git_state().commit == "of the package"
    git(monkeypatch, lambda folder, _: "of the folder" if folder == str(tmp_path) else "of the package")
    assert git_state().commit == "of the folder"


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 10), None])
def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    def answers(_folder: str, _arguments: list[str]) -> None:
        if error is not None:
            raise error

    git(monkeypatch, answers)
    assert git_state() == GitState(None, None)


@pytest.mark.parametrize("given", [None, "", "null", "{}", "[]"])
def test_a_process_that_was_not_submitted(monkeypatch: pytest.MonkeyPatch, given: str | None) -> None:
    monkeypatch.delenv(SUBMISSION, raising=False)
    if given is not None:
        monkeypatch.setenv(SUBMISSION, given)
    assert submission() is None


def test_a_submitted_driver_has_the_code_of_the_machine_that_submitted_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    git(monkeypatch, lambda *_: pytest.fail("the node's own checkout is not asked for"))
    sent = Submission("sha256:1", 10, "job", "http://head:8265", GitState("abc", True))
    monkeypatch.setenv(SUBMISSION, json.dumps(to_document(sent)))
    assert submission() == sent
    made = environment(3)
    assert (made.git, made.package, made.torch_threads, made.method) == (sent.git, "sha256:1", 3, METHOD)
    assert made.packages["selmix"] is not None
    assert made.packages["torch"] is not None


STACK = Environment(
    packages={"torch": "2", "mlflow": "3"},
    python="3.11",
    platform="a",
    hardware=Hardware("cpu", 4, []),
    torch_threads=1,
)


@pytest.mark.parametrize(
    "change",
    [
        {"method": 2}, {"python": "3.12"}, {"torch_threads": 2}, {"packages": {"torch": "3"}},
        {"hardware": Hardware("other", 4, [])}, {"hardware": Hardware("cpu", 4, ["H100"])},
    ],
)  # fmt: skip
def test_what_decides_bits_is_in_the_stack(change: dict[str, Any]) -> None:
    assert replace(STACK, **change).stack() != STACK.stack()


@pytest.mark.parametrize(
    "change",
    [
        {"git": GitState("abc", True)}, {"platform": "b"}, {"packages": {"torch": "2", "mlflow": "4"}},
        {"hardware": Hardware("cpu", 96, [])}, {"package": "sha256:1"},
    ],
)  # fmt: skip
def test_what_only_explains_is_not(change: dict[str, Any]) -> None:
    assert replace(STACK, **change).stack() == STACK.stack()
