"""The time, as records and MLflow have it."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def utc_now() -> str:
    """The time in ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return int(time.time() * 1000)
