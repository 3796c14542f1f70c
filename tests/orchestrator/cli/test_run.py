"""Verbs that run sweeps, on the command line: flags that exclude each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import here


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--in-process", "--submit"), "launch: --in-process runs the sweep without a cluster"),
        (("--in-process", "--address", "h:1"), "launch: --in-process runs the sweep without a cluster"),
        (("--follow",), "launch: --follow needs --submit"),
    ],
)
def test_flags_of_a_launch_that_exclude_each_other(flags: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = here("launch", "nowhere.yaml", *flags, cwd=tmp_path)
    assert done.code == 2
    assert says in done.err
