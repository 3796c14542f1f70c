"""From a sweep file to a verdict: the ground floor of words that every package below uses, and the Python API.

``from orchestrator import Sweep, open_sweep``; see ``docs/python_api.md``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from orchestrator.errors import (
    NoFeasibleTrial,
    NotFound,
    PreflightError,
    SelmixError,
    SpecError,
    TooManyFailures,
    UsageError,
)

if TYPE_CHECKING:
    from orchestrator.api.opened import OpenedSweep, open_sweep
    from orchestrator.api.sweep import Sweep

__all__ = [
    "NoFeasibleTrial", "NotFound", "OpenedSweep", "PreflightError", "SelmixError", "SpecError",
    "Sweep", "TooManyFailures", "UsageError", "open_sweep",
]  # fmt: skip

_HOMES = {
    "OpenedSweep": "orchestrator.api.opened",
    "Sweep": "orchestrator.api.sweep",
    "open_sweep": "orchestrator.api.opened",
}
"""Name -> module."""


def __getattr__(name: str) -> Any:
    # On demand: every module of the package imports this one, and reading results needs no torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
