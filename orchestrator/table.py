"""Text for people: numbers, names, paragraphs and tables, wrapped to the width of the terminal."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TextIO

from selmix.metric_keys import is_fraction

GAP = 2
INDENT = 2
NOTE = 6
"""Columns that a note below a row is indented by."""

LABEL = 15
"""Columns that the labels of a paragraph take."""

_SOFT = re.compile(r"[^\s/+,]*[\s/+,]?")
"""Pieces at whose ends a cell may be broken: after a blank, and after the signs between the parts of a path or list."""

_HARD = re.compile(r"[^\s/+,=_-]*[\s/+,=_-]?")
"""The same inside the parts of a name: where the terminal is too narrow for whole names."""


_CONTROL = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")
"""Characters that a terminal takes for commands; lines, tabs and colours are ours."""


_ANY_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""The same, and lines, tabs and colours: in a cell they come from a user's file."""


class Interval(Protocol):
    """A value with its interval."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Columns of the terminal that a stream is; None where it goes elsewhere: lines stay whole.

    Args:
        stream: stdout by default, for which COLUMNS counts too where it is no terminal.
    """
    stated = stream is None and os.environ.get("COLUMNS", "").isdigit()
    if not stated and not is_terminal(sys.stdout if stream is None else stream):
        return None
    return max(40, shutil.get_terminal_size().columns)


def is_terminal(stream: TextIO) -> bool:
    """True if a stream is a terminal; one that was closed is none."""
    try:
        return stream.isatty()
    except ValueError:
        return False


def printable(text: str) -> str:
    """A text in which characters that would steer a terminal are written out: names come from users' files."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _on_one_line(cell: str) -> str:
    return _ANY_CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", cell)


def message(text: str, width: int | None) -> str:
    """Lines for stderr, each continued below itself with an indent.

    Args:
        text: of one line or several.
        width: columns of the terminal; None: lines stay whole.
    """
    if width is None:
        return text
    return "\n".join(
        textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )


@dataclass(frozen=True)
class Unit:
    """Unit in which values of a metric are shown.

    Attributes:
        value: behind a value, with its blank; empty where the number stands by itself.
        difference: behind a difference, likewise.
        factor: that a value is multiplied by.
        decimals: of the number that is shown.
    """

    value: str
    difference: str
    factor: float
    decimals: int

    @property
    def heading(self) -> str:
        """Behind the title of a column of such values."""
        return f",{self.value}" if self.value else ""


PERCENT = Unit(" %", " pp", 100.0, 1)
OWN = Unit("", "", 1.0, 3)
"""Unit of a mean cost, which is that of its matrix, and of all that is no fraction."""


def unit_of(metric: str | None) -> Unit:
    """Unit in which values of a metric are shown; None, where it is not known, as a fraction."""
    return PERCENT if metric is None or is_fraction(metric) else OWN


def estimate(interval: Interval, unit: Unit = PERCENT) -> str:
    """``91.7 [79.2, 95.8]`` in %; ``0.521 [0.401, 0.630]`` of a cost."""
    low, high = number(interval.low, unit), number(interval.high, unit)
    return f"{number(interval.value, unit)} [{low}, {high}]"


def difference(interval: Interval, unit: Unit = PERCENT) -> str:
    """``+1.2 [-3.0, +5.4]`` in percentage points; ``+0.012 [-0.030, +0.054]`` of a cost."""
    value, low, high = (
        f"{unit.factor * each:+.{unit.decimals}f}" for each in (interval.value, interval.low, interval.high)
    )
    return f"{value} [{low}, {high}]"


def number(value: float, unit: Unit) -> str:
    """``91.7`` of 0.917 in %; ``0.917`` of a cost."""
    return f"{unit.factor * value:.{unit.decimals}f}"


def percent(value: float) -> str:
    """``91.7`` of 0.917."""
    return number(value, PERCENT)


def short(trial_id: str) -> str:
    """``trial-007`` of ``min_recall/trial-007``."""
    return trial_id.partition("/")[2] or trial_id


def minute(time: str) -> str:
    """``2026-11-26 12:44`` of a time stamp in UTC."""
    return time[:16].replace("T", " ")


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
    filled = textwrap.fill(
        text, max(width, indent + 20), initial_indent=head, subsequent_indent=" " * indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    # Of a text without words there are no lines, so that the label would go too.
    return filled or head.rstrip()


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


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    width: int | None,
    notes: Sequence[Sequence[str]] = (),
) -> str:
    """Rows below their titles, indented; cells of text are broken where the terminal is too narrow for them.

    Args:
        columns: titles and alignment.
        rows: one cell per column.
        width: columns of the terminal; None: every row stays on one line.
        notes: sentences below each row; none at all where it is empty.
    """
    # A name with a line break or a colour would break the rows.
    cells = [[column.title for column in columns], *([_on_one_line(cell) for cell in row] for row in rows)]
    pieces = _SOFT
    widths = _widths(columns, cells, width, pieces)
    # Names are kept whole if that is possible at all.
    if width is not None and _total(widths) > width:
        pieces = _HARD
        widths = _widths(columns, cells, width, pieces)
    lines: list[str] = []
    for number, row in enumerate(cells):
        lines += _lines(columns, row, widths, pieces)
        if number and notes:
            lines += [paragraph(" " * NOTE, note, width, NOTE) for note in notes[number - 1]]
    return "\n".join(lines)


def natural_width(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> int:
    """Columns of the terminal that a table takes where no cell is broken."""
    cells = [[column.title for column in columns], *rows]
    return _total([max(len(row[k]) for row in cells) for k in range(len(columns))])


def _total(widths: Sequence[int]) -> int:
    return INDENT + sum(widths) + GAP * (len(widths) - 1)


def _widths(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int | None, pieces: re.Pattern[str]
) -> list[int]:
    """Columns' widths: as wide as their cells, then the widest text narrower until the table fits."""
    widths = [max(len(row[k]) for row in cells) for k in range(len(columns))]
    if width is None:
        return widths
    minima = []
    for k, column in enumerate(columns):
        title, *values = (row[k] for row in cells)
        # Below its longest piece a cell cannot be broken any more; of a column of numbers only the title can.
        broken = [] if column.right else values
        parts = [part.rstrip() for text in (title, *broken) for part in pieces.findall(text)]
        minima.append(max(map(len, [*parts, *(values if column.right else [])]), default=0))
    # By single columns, so that long texts end up equally wide.
    while _total(widths) > width:
        spare = [(widths[k] - minima[k], widths[k], k) for k in range(len(columns)) if widths[k] > minima[k]]
        # No cell can be broken any more: the lines stay too long.
        if not spare:
            break
        widths[max(spare, key=lambda each: each[1])[2]] -= 1
    return widths


def _lines(
    columns: Sequence[Column], row: Sequence[str], widths: Sequence[int], pieces: re.Pattern[str]
) -> list[str]:
    broken = [_broken(cell, width, pieces) for cell, width in zip(row, widths, strict=True)]
    lines = []
    for number in range(max(len(cell) for cell in broken)):
        parts = []
        for column, cell, width in zip(columns, broken, widths, strict=True):
            text = cell[number] if number < len(cell) else ""
            parts.append(text.rjust(width) if column.right else text.ljust(width))
        lines.append((" " * INDENT + (" " * GAP).join(parts)).rstrip())
    return lines


def _broken(text: str, width: int, pieces: re.Pattern[str]) -> list[str]:
    """A cell as lines of at most ``width`` columns, as far as its pieces allow."""
    if len(text) <= width:
        return [text]
    lines = [""]
    for piece in pieces.findall(text):
        if lines[-1] and len((lines[-1] + piece).rstrip()) > width:
            lines[-1] = lines[-1].rstrip()
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]
