"""The folder of a model as MLflow has it: what writing it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import in_home


@pytest.mark.slow
def test_mlflow_does_not_report_to_its_makers(tmp_path: Path) -> None:
    """It would when it is imported, and leave its id in the home folder."""
    script = """
import sys
from pathlib import Path
from orchestrator.tracking.model_folder import ModelFolder, write_model_folder
write_model_folder(Path(sys.argv[1]), ModelFolder({}, None, {"x": "number"}, {"y": "number"}, {"x": [1.0]}, [], "2"))
from mlflow.telemetry.utils import is_telemetry_disabled
assert is_telemetry_disabled()
"""
    home = tmp_path / "home"
    done = in_home(script, home, str(tmp_path / "model"))
    assert done.returncode == 0, done.stderr
    assert [path for path in home.rglob("*") if path.is_file()] == []
