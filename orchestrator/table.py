"""Text for people: numbers, names, paragraphs and tables, wrapped to the width of the terminal."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

GAP = 2
INDENT = 2
LABEL = 15
"""Columns that the labels of a paragraph take."""

_PIECE = re.compile(r"[^\s_+/,=]*[\s_+/,=]?")
"""Piece of a cell: it may be broken after a blank, and after the signs that join the words of a name."""


class Interval(Protocol):
    """A value with its interval."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is, or COLUMNS; None where it goes elsewhere: lines stay whole."""
    # A file or a pipe has no width, unless COLUMNS is set.
    if not sys.stdout.isatty() and not os.environ.get("COLUMNS", "").isdigit():
        return None
    return max(40, shutil.get_terminal_size().columns)


def estimate(interval: Interval) -> str:
    """``91.7 [79.2, 95.8]`` in %."""
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def difference(interval: Interval) -> str:
    """``+1.2 [-3.0, +5.4]`` in percentage points."""
    return f"{100 * interval.value:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def percent(value: float) -> str:
    """``91.7`` of 0.917."""
    return f"{100 * value:.1f}"


def short(trial_id: str) -> str:
    """``trial-007`` of ``min_recall/trial-007``."""
    return trial_id.partition("/")[2] or trial_id


def paragraph(label: str, text: str, width: int | None, indent: int = LABEL) -> str:
    """A label, and a text beside it that continues below its first line.

    Args:
        label: at the left; "" for a text that continues the last one.
        text: is broken between words.
        width: columns of the terminal; None: the text stays on one line.
        indent: columns of the label.
    """
    head = f"{label:<{indent}}"
    if width is None:
        return f"{head}{text}".rstrip()
    # Ids of trials and negative numbers hold hyphens: they must not be torn.
    return textwrap.fill(
        text, max(width, indent + 20), initial_indent=head, subsequent_indent=" " * indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def sentence(text: str, width: int | None) -> str:
    """A text that begins at the left edge."""
    return paragraph("", text, width, indent=0)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: above it.
        right: True for numbers, which align at their last digit and are never broken.
    """

    title: str
    right: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> str:
    """Rows below their titles, indented; cells of text are broken where the terminal is too narrow for them.

    Args:
        columns: titles and alignment.
        rows: one cell per column.
        width: columns of the terminal; None: every row stays on one line.
    """
    cells = [[column.title for column in columns], *(list(row) for row in rows)]
    widths = _widths(columns, cells, width)
    return "\n".join(line for row in cells for line in _lines(columns, row, widths))


def _widths(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int | None) -> list[int]:
    """Columns' widths: as wide as their cells, then the widest text narrower until the table fits."""
    widths = [max(len(row[k]) for row in cells) for k in range(len(columns))]
    if width is None:
        return widths
    minima = []
    for k, column in enumerate(columns):
        title, *values = (row[k] for row in cells)
        # Below its longest piece a cell cannot be broken any more; of a column of numbers only the title can.
        unbroken = [*_pieces(title), *(values if column.right else [p for v in values for p in _pieces(v)])]
        minima.append(max(map(len, unbroken), default=0))
    available = width - INDENT - GAP * (len(columns) - 1)
    # By single columns, so that long texts end up equally wide.
    while sum(widths) > available:
        spare = [(widths[k] - minima[k], widths[k], k) for k in range(len(columns)) if widths[k] > minima[k]]
        # No cell can be broken any more: the lines stay too long.
        if not spare:
            break
        widths[max(spare, key=lambda each: each[1])[2]] -= 1
    return widths


def _lines(columns: Sequence[Column], row: Sequence[str], widths: Sequence[int]) -> list[str]:
    broken = [_broken(cell, width) for cell, width in zip(row, widths, strict=True)]
    lines = []
    for number in range(max(len(cell) for cell in broken)):
        parts = []
        for column, cell, width in zip(columns, broken, widths, strict=True):
            text = cell[number] if number < len(cell) else ""
            parts.append(text.rjust(width) if column.right else text.ljust(width))
        lines.append((" " * INDENT + (" " * GAP).join(parts)).rstrip())
    return lines


def _pieces(text: str) -> list[str]:
    return [piece.rstrip() for piece in _PIECE.findall(text) if piece]


def _broken(text: str, width: int) -> list[str]:
    """A cell as lines of at most ``width`` columns, as far as its pieces allow."""
    if len(text) <= width:
        return [text]
    lines = [""]
    for piece in _PIECE.findall(text):
        if lines[-1] and len((lines[-1] + piece).rstrip()) > width:
            lines[-1] = lines[-1].rstrip()
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]
