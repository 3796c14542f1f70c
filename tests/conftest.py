"""What several tests look at: one small sweep, run once by the real command line."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command import SMOKE, selmix

# As in a trial: one thread. On tensors this small two of them wait for each other more than they help. torch reads it
# when it is imported, which is after this.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Lines stay whole unless a test says how wide the terminal is; pytest tells its workers how wide its own is.
os.environ.pop("COLUMNS", None)
# matplotlib keeps a cache of fonts; tests leave the home folder as it is.
os.environ.setdefault("MPLCONFIGDIR", str(Path(tempfile.gettempdir()) / "selmix-tests-matplotlib"))


@pytest.fixture(scope="session")
def smoke_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with the finished sweep ``smoke``."""
    runs = tmp_path_factory.mktemp("smoke") / "runs"
    done = selmix("launch", SMOKE, "--runs", runs)
    assert done.code == 0, done.err
    assert done.out == ""
    return runs


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-screens", action="store_true", help="write the golden screens anew")


@pytest.fixture
def update_screens(request: pytest.FixtureRequest) -> bool:
    """True if golden screens are to be written instead of compared with."""
    return bool(request.config.getoption("--update-screens"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The sweep first: it takes longest, and what is left is spread over the other process meanwhile."""
    items.sort(key=lambda item: "smoke_runs" not in getattr(item, "fixturenames", ()))


@contextmanager
def catalogue_of(kept: Callable[[str], bool]) -> Iterator[None]:
    """Have only these baselines meanwhile. Put back whole, since the catalogue's order is its tables' order."""
    from selmix.baselines import BASELINES

    whole = dict(BASELINES)
    try:
        for name in whole:
            if not kept(name):
                del BASELINES[name]
        yield
    finally:
        BASELINES.clear()
        BASELINES.update(whole)


@pytest.fixture(scope="module")
def few_baselines() -> Iterator[None]:
    """Leave out the baselines that take most of a tiny sweep's time, for tests whose subject is another one."""
    slow = {"plug_in", "last_layer_post_hoc", "last_layer_post_hoc_both", "post_hoc_bias_search_both"}
    with catalogue_of(lambda name: name not in slow):
        yield


@pytest.fixture(scope="module")
def four_baselines() -> Iterator[None]:
    """One baseline of each rung that takes no longer than its model."""
    kept = {"untouched", "post_hoc_bias_search", "balanced_head", "uniform_mixup"}
    with catalogue_of(kept.__contains__):
        yield
