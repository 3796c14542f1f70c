"""Errors that a user reads, and their exit codes."""

from __future__ import annotations

import re

from orchestrator import errors
from orchestrator.cli.main import help_page
from orchestrator.errors import SelmixError, SpecError


def test_every_exit_code_is_one_error_and_on_the_help_page() -> None:
    kinds = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, SelmixError)
    ]
    codes = sorted(each.exit_code for each in kinds)
    assert codes == [1, 2, 3, 4, 5, 6, 7, 8]
    explained = [
        int(code) for code in re.findall(r"(\d+) [a-z]", help_page(None).partition("exit codes:")[2])
    ]
    assert explained == [0, *codes[1:], 143]


def test_a_spec_error_has_its_problems_as_lines_and_as_a_list() -> None:
    problems = ["f.yaml:1: a: x", "f.yaml:2: b: y"]
    error = SpecError(tuple(problems))
    assert str(error).splitlines() == error.problems == problems
