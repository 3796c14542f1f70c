"""Verbs that run sweeps, on the command line: flags that exclude each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli.options import launch as launch_options
from orchestrator.cli.run import _again as again
from orchestrator.records.store import LocalStore
from tests.command import here


def test_the_command_that_climbs_on_needs_ray_where_trials_are_stopped_early() -> None:
    options = launch_options().parse_args(["f.yaml", "a.b=1", "--in-process", "--until", "head"])
    options.runs = LocalStore(Path("runs"))
    assert again(options, "head", in_process=True) == "selmix launch f.yaml a.b=1 --in-process --until head"
    assert again(options, None, in_process=False) == "selmix launch f.yaml a.b=1"


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
