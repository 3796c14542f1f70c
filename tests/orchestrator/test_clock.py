"""The time, as records and MLflow have it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from orchestrator.clock import now_ms, utc_now


def test_both_clocks_are_of_now() -> None:
    before = time.time()
    stamp, milliseconds = datetime.fromisoformat(utc_now()), now_ms()
    after = time.time()
    assert stamp.utcoffset() == timedelta(0)
    assert stamp.microsecond == 0
    # To the second: the stamp may lie a second before the time that it was taken at.
    assert datetime.fromtimestamp(before - 1, UTC) <= stamp <= datetime.fromtimestamp(after, UTC)
    assert int(before * 1000) <= milliseconds <= int(after * 1000)
