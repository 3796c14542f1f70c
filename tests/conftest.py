"""What several tests look at: one small sweep, run once by the real command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import SMOKE, selmix


@pytest.fixture(scope="session")
def smoke_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with the finished sweep ``smoke``."""
    runs = tmp_path_factory.mktemp("smoke") / "runs"
    done = selmix("launch", SMOKE, "--runs", runs)
    assert done.code == 0, done.err
    assert done.out == ""
    return runs
