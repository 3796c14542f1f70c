"""Verbs before a sweep, on the command line."""

from __future__ import annotations

from tests.command import SMOKE, here


def test_warnings_of_a_valid_file_go_to_stderr() -> None:
    done = here("validate", SMOKE, "data.select=5", "--json")
    assert (done.code, done.document["valid"], done.document["objectives"]) == (0, True, ["min_recall"])
    assert len(done.document["warnings"]) == 2
    assert done.err.splitlines() == [f"warning: {warning}" for warning in done.document["warnings"]]
    assert here("validate", SMOKE, "data.select=5").out == f"{SMOKE}: valid (min_recall)\n"
