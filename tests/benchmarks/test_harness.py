"""Comparisons over seeds: what is kept of a run that is cut off."""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness, settings


class Here:
    """A pool that works in this process, in the order in which it is asked."""

    def __init__(self, max_workers: int) -> None:
        self.max_workers = max_workers

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def submit(self, work: Any, *arguments: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*arguments))
        except ArithmeticError as error:
            done.set_exception(error)
        return done


def test_seeds_that_are_done_are_kept_and_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []

    def rows(setting: Any, seed: int) -> list[dict[str, Any]]:
        ran.append(seed)
        if seed == 2 and len(ran) < 4:
            raise ArithmeticError("cut off")
        return [{"seed": seed, "method": "a"}]

    monkeypatch.setattr(harness, "rows_of_seed", rows)
    monkeypatch.setattr(harness, "ProcessPoolExecutor", Here)
    kept, setting = tmp_path / "kept.jsonl", settings.PRODUCT
    with pytest.raises(ArithmeticError):
        harness.compare(setting, [0, 1, 2], kept)
    # In whatever order they ended, the two that did are kept.
    assert {json.loads(line)["seed"] for line in kept.read_text().splitlines()} == {0, 1}
    found = harness.compare(setting, [0, 1, 2], kept)
    assert [row["seed"] for row in found] == [0, 1, 2]
    assert ran == [0, 1, 2, 2]
    assert harness.compare(setting, [2, 0], kept) == [found[2], found[0]]
    with pytest.raises(SystemExit, match=r"must be of gaussians, got product"):
        harness.compare(settings.GAUSSIANS, [0], kept)
