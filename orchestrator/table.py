"""Figures, names and tables as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]


def estimate(value: Document) -> str:
    """``91.7  [79.2, 95.8]`` in %."""
    return f"{100 * value['value']:5.1f}  [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def difference(value: Document) -> str:
    """``+1.2 [-3.0, +5.4]`` in points."""
    return f"{100 * value['value']:+.1f} [{100 * value['low']:+.1f}, {100 * value['high']:+.1f}]"


def short(trial_id: str) -> str:
    """``trial-007`` of ``min_recall/trial-007``."""
    return trial_id.partition("/")[2] or trial_id


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, indented."""
    cells = [head, *rows]
    widths = [max(len(row[k]) for row in cells) for k in range(len(head))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join(f"  {line}" for line in lines)
