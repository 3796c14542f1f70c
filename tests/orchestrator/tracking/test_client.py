"""Clients of MLflow in a process of their own: quiet, quick to give up, and nothing left in the home folder."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.command import in_home


@pytest.mark.slow
def test_opening_a_store_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    script = """
import sys
from orchestrator.tracking.client import open_client
open_client(sys.argv[1]).create_experiment("x")
from mlflow.telemetry.utils import is_telemetry_disabled
assert is_telemetry_disabled()
"""
    done = in_home(script, tmp_path / "home", f"sqlite:///{tmp_path}/mlflow.db")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_given_up_within_seconds(tmp_path: Path) -> None:
    """MLflow by itself would try again for four minutes."""
    script = """
from orchestrator.errors import PreflightError
from orchestrator.tracking.client import open_client
try:
    open_client("http://127.0.0.1:9")
except PreflightError:
    raise SystemExit(4)
"""
    begun = time.monotonic()
    done = in_home(script, tmp_path / "home")
    assert done.returncode == 4, done.stderr
    assert time.monotonic() - begun < 60
