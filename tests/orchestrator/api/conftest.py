"""The notebook of the documentation, run once; what is tested here looks at what it left."""

from __future__ import annotations

import contextlib
import io
import runpy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.api.opened import OpenedSweep, open_sweep
from tests.command import ROOT


@dataclass(frozen=True)
class Notebook:
    """A run of docs/notebook.py.

    Attributes:
        home: the folder that it ran in.
        names: what its cells have defined.
        out: what it printed.
        err: what it printed to stderr.
    """

    home: Path
    names: dict[str, Any]
    out: str
    err: str

    @property
    def opened(self) -> OpenedSweep:
        return open_sweep("from_arrays", self.home / "runs")


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    from tests.conftest import catalogue_of

    home = tmp_path_factory.mktemp("notebook")
    kept = {"untouched", "post_hoc_bias_search_both", "balanced_head", "tau_normalisation", "uniform_mixup"}
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, catalogue_of(kept.__contains__):
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with contextlib.chdir(home), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            names = runpy.run_path(str(ROOT / "docs" / "notebook.py"))
        yield Notebook(home, names, out.getvalue(), err.getvalue())
