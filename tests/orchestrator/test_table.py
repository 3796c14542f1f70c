"""Text for people: numbers, paragraphs and tables at any width."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.records.types import Figure
from orchestrator.table import (
    PERCENT,
    Column,
    difference,
    estimate,
    message,
    minute,
    natural_width,
    number,
    paragraph,
    percent,
    sentence,
    short,
    table,
    terminal_width,
    unit_of,
)

SIGNS = " /+,=_-"
WORDS = st.text("abcxyz0189", min_size=1, max_size=5)
CELLS = st.builds(
    lambda words, signs: "".join(f"{word}{sign}" for word, sign in zip(words, signs, strict=True)).rstrip(),
    st.lists(WORDS, min_size=4, max_size=4),
    st.lists(st.sampled_from(SIGNS), min_size=4, max_size=4),
)
"""Texts whose pieces have five characters and a sign at most."""

NAMES = st.lists(st.text("abc-_=", min_size=1, max_size=8), max_size=3).map(" ".join)
FEW = settings(max_examples=60, deadline=None)


def columns_of(count: int) -> list[Column]:
    return [Column(f"t{k}") for k in range(count)]


def characters(text: str) -> list[str]:
    return sorted("".join(text.split()))


@st.composite
def tables(draw: st.DrawFn, cells: st.SearchStrategy[str]) -> tuple[list[Column], list[list[str]]]:
    count = draw(st.integers(1, 4))
    rows = st.lists(st.lists(cells, min_size=count, max_size=count), max_size=4)
    return columns_of(count), draw(rows)


@FEW
@given(tables(CELLS), st.integers(1, 90))
def test_no_width_cuts_anything(made: tuple[list[Column], list[list[str]]], width: int) -> None:
    columns, rows = made
    shown = table(columns, rows, width)
    whole = "".join([*(column.title for column in columns), *(cell for row in rows for cell in row)])
    assert characters(shown) == characters(whole)
    assert not any(line != line.rstrip() for line in shown.splitlines())


@FEW
@given(tables(CELLS), st.integers(0, 40))
def test_a_table_fits_where_its_shortest_pieces_do(
    made: tuple[list[Column], list[list[str]]], more: int
) -> None:
    columns, rows = made
    # An indent of two, columns of six, and gaps of two.
    width = 2 + 6 * len(columns) + 2 * (len(columns) - 1) + more
    assert max(map(len, table(columns, rows, width).splitlines())) <= width


@FEW
@given(tables(NAMES), st.integers(0, 40))
def test_names_stay_whole_where_there_is_room(made: tuple[list[Column], list[list[str]]], more: int) -> None:
    columns, rows = made
    width = 2 + 8 * len(columns) + 2 * (len(columns) - 1) + more
    shown = table(columns, rows, width)
    assert max(map(len, shown.splitlines())) <= width
    words = [word for row in rows for cell in row for word in cell.split()]
    assert sorted(shown.split()) == sorted([column.title for column in columns] + words)


@FEW
@given(tables(CELLS))
def test_the_natural_width_is_the_least_that_breaks_nothing(
    made: tuple[list[Column], list[list[str]]],
) -> None:
    columns, rows = made
    width = natural_width(columns, rows)
    assert table(columns, rows, width) == table(columns, rows, None)
    assert max(map(len, table(columns, rows, None).splitlines())) <= width


@pytest.mark.parametrize("width", [1, 12, 20, 40, None])
def test_numbers_are_never_broken_and_end_below_each_other(width: int | None) -> None:
    columns, numbers = [Column("name"), Column("of all, %", right=True)], ("91.7 [79.2, 95.8]", "-3.0")
    shown = table(columns, [["min_recall and more", numbers[0]], ["b", numbers[1]]], width).splitlines()
    ends = [line.index(number) + len(number) for number in numbers for line in shown if number in line]
    assert len(ends) == 2
    assert ends[0] == ends[1]


def test_a_long_cell_continues_below_itself_and_notes_below_their_row() -> None:
    columns = [Column("key"), Column("text")]
    shown = table(columns, [["a", "some words of text"], ["b", "x"]], 20, [["a note"], []])
    assert shown.splitlines() == [
        "  key  text",
        "  a    some words of",
        "       text",
        "      a note",
        "  b    x",
    ]


def test_a_name_with_a_line_break_or_a_colour_stays_in_its_cell() -> None:
    assert table(columns_of(2), [["a\nb", "\x1b[31mred"], ["c\td", "\x00"]], None).splitlines() == [
        "  t0      t1", "  a\\x0ab  \\x1b[31mred", "  c\\x09d  \\x00",
    ]  # fmt: skip


def test_a_table_without_rows_is_its_titles() -> None:
    assert table(columns_of(2), [], 40) == "  t0  t1"


def test_paragraphs_continue_below_their_text_and_tear_no_id() -> None:
    text = paragraph("tied", "trial-0000, trial-0001, -0.5 [-10.25, -0.25]", 35)
    assert [line[15:] for line in text.splitlines()] == ["trial-0000,", "trial-0001, -0.5", "[-10.25, -0.25]"]
    assert [line[:15].strip() for line in text.splitlines()] == ["tied", "", ""]
    assert paragraph("tied", "a b", None) == "tied           a b"
    assert sentence("word " * 20, 40).splitlines()[1].startswith("word")
    # A terminal narrower than the label still leaves twenty columns to the text.
    assert max(map(len, paragraph("label", "words of a text " * 4, 10).splitlines())) <= 35


def test_a_label_without_a_text_is_shown_at_any_width() -> None:
    assert paragraph("label", "", 80).rstrip() == paragraph("label", "", None) == "label"


def test_messages_keep_their_lines_and_words() -> None:
    text = "FILE:3: key: must be something that is long\nanother-name-of-more-than-twenty-columns"
    assert message(text, None) == text
    shown = message(text, 20)
    assert shown.split() == text.split()
    assert [line.startswith("  ") for line in shown.splitlines()] == [False, True, True, False]


def test_figures_are_shown_in_percent() -> None:
    assert estimate(Figure(0.9166, 0.7916, 0.9583)) == "91.7 [79.2, 95.8]"
    assert difference(Figure(0.012, -0.03, 0.054)) == "+1.2 [-3.0, +5.4]"
    assert difference(Figure(0.0, -1.0, 1.0)) == "+0.0 [-100.0, +100.0]"
    assert (percent(0.917), percent(0.0), percent(1.0)) == ("91.7", "0.0", "100.0")


def test_ids_and_times_are_shown_short() -> None:
    assert short("min_recall/trial-007") == "trial-007"
    assert short("min_recall/trial-007/seed-1") == "trial-007/seed-1"
    assert short("untouched") == "untouched"
    assert minute("2026-11-26T12:44:59+00:00") == "2026-11-26 12:44"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_only_a_terminal_has_a_width_unless_the_user_states_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal_width(io.StringIO()) is None
    monkeypatch.setenv("COLUMNS", "72")
    assert terminal_width() == 72  # stdout, which is no terminal here
    assert terminal_width(io.StringIO()) is None
    assert terminal_width(Terminal()) == 72
    monkeypatch.setenv("COLUMNS", "7")
    assert terminal_width(Terminal()) == 40


def test_values_are_shown_in_the_unit_of_their_metric() -> None:
    figure = Figure(0.521, 0.4, 1.63)
    recall, cost = unit_of("min_recall"), unit_of("cost")
    assert (recall, unit_of("recall/dog"), unit_of(None)) == (PERCENT, PERCENT, PERCENT)
    assert estimate(figure, recall) == estimate(figure) == "52.1 [40.0, 163.0]"
    assert estimate(figure, cost) == "0.521 [0.400, 1.630]"
    assert difference(Figure(-0.521, -1.0, 0.25), cost) == "-0.521 [-1.000, +0.250]"
    assert (number(-12.5, cost), number(0.917, recall)) == ("-12.500", "91.7")
    assert (recall.heading, cost.heading, cost.value, cost.difference) == (", %", "", "", "")
