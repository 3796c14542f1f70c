"""Words that messages share."""

from __future__ import annotations

import pytest

from orchestrator.messages import as_yaml, closest, counted, first_line, is_number


@pytest.mark.parametrize(
    ("got", "valid", "advice"),
    [
        ("min_recal", ["mean_recall", "min_recall"], "did you mean min_recall?"),
        ("xyz", ["a", "b"], "there are a, b"),
        ("", ["a"], "there are a"),
        (3, ["steps"], "there are steps"),
        ("a", [], "there are none"),
        ("a", (name for name in ("b", "c")), "there are b, c"),
    ],
)
def test_the_closest_name_or_all_of_them(got: object, valid: list[str], advice: str) -> None:
    assert closest(got, valid) == advice


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (False, "false"), (None, "nothing"), (1, "1"), ("1", "'1'"), (0.5, "0.5"), ([1], "[1]")],
)
def test_values_as_a_sweep_file_has_them(value: object, text: str) -> None:
    assert as_yaml(value) == text


@pytest.mark.parametrize(
    ("value", "number", "whole"),
    [(1, True, True), (1.0, True, False), (True, False, False), ("1", False, False), (None, False, False)],
)
def test_booleans_are_no_numbers(value: object, number: bool, whole: bool) -> None:
    assert (is_number(value), is_number(value, whole=True)) == (number, whole)


def test_an_error_without_words_is_shown_by_its_kind() -> None:
    assert first_line(ValueError("\n one \ntwo")) == "one "
    assert first_line(KeyError()) == "KeyError()"
    assert first_line(RuntimeError(" \n ")) == "RuntimeError(' \\n ')"


def test_one_is_singular_and_none_is_plural() -> None:
    assert [counted(number, "run") for number in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
