"""Every approach of the catalogue is pinned by its name, and made again to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selmix.baselines import BASELINES
from tests.command import here
from tests.orchestrator.pins.test_named_rows import check_row, launched

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),  # matters of MLflow's, on a store that begins empty
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launched(tmp_path_factory.mktemp("every"), "screen={num_configs: 4, promote: 1}")


@pytest.fixture(scope="module")
def shown(home: Path) -> dict[str, Any]:
    document: dict[str, Any] = here("show", "rows", "--json", cwd=home).document
    return document


@pytest.mark.parametrize("name", ["selmix", *BASELINES])
def test_every_approach_is_pinned_and_made_again(home: Path, shown: dict[str, Any], name: str) -> None:
    check_row(home, shown, name)
