"""A sweep file as plain values with the line of every key, and overrides of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import SpecError, UsageError
from orchestrator.spec.yaml_file import (
    SweepFile,
    apply_overrides,
    parse_scalar,
    parse_sweep_text,
    read_sweep_file,
)

TEXT = """\
a: 1
b:
  c: [x, {d: 2}]
  # a comment
  e: &e
    f: yes
g: *e
"""


def test_every_key_has_its_line_and_an_alias_that_of_its_use() -> None:
    file = parse_sweep_text(TEXT, "f.yaml")
    assert file.values == {"a": 1, "b": {"c": ["x", {"d": 2}], "e": {"f": "yes"}}, "g": {"f": "yes"}}
    for path, place in {
        ("a",): "1: a", ("b",): "2: b", ("b", "c", 0): "3: b.c.0", ("b", "c", 1, "d"): "3: b.c.1.d",
        ("b", "e"): "5: b.e", ("b", "e", "f"): "6: b.e.f", ("g",): "7: g", ("b", "missing"): "2: b.missing",
        ("missing", "too"): "1: missing.too",
    }.items():  # fmt: skip
        assert file.where(path) == f"f.yaml:{place}"
    assert file.where(()) == "f.yaml:1"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("+5", 5), ("-0", 0), ("007", 7), ("5.", 5.0), (".5", 0.5), ("-1E+2", -100.0), ("1_000", "1_000"),
        ("1:30", "1:30"), ("yes", "yes"), ("True", True), ("~", None), ("", None), ("NULL", None), ('"true"', "true"),
        ("2026-11-26", "2026-11-26"), ("{a: [1, no]}", {"a": [1, "no"]}),
        ("9" * 299, int("9" * 299)), ("9" * 300, "9" * 300), ("0x1f", "0x1f"),
    ],
)  # fmt: skip
def test_plain_scalars_by_the_core_schema(text: str, value: Any) -> None:
    parsed = parse_scalar(text)
    assert (parsed, type(parsed)) == (value, type(value))


@settings(max_examples=60, deadline=None)
@given(st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_read_as_python_writes_them(number: float) -> None:
    parsed = parse_scalar(repr(number))
    assert (parsed, type(parsed)) == (number, type(number))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: [", "f.yaml:2: must be YAML"),
        ("a: 1\n\tb: 2", "f.yaml:2: must be YAML"),
        ("a: 1\n---\nb: 2", "f.yaml:2: must be YAML"),
        ("a: \x00", "f.yaml:1: must be YAML"),
        ("[a]", r"f.yaml:1: must be a mapping of keys \(version, name, data, objectives, ...\)"),
        ("# nothing", "f.yaml:1: must be a mapping of keys"),
        ("a: 1\nb: &b [1, {c: *b}]", "f.yaml:2: must have an end, an alias stands within what it names"),
    ],
)
def test_what_is_no_file_of_keys_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        parse_sweep_text(text, "f.yaml")


def test_problems_of_form_are_collected_and_the_rest_is_read() -> None:
    text = "a: !mine 1\nb: .nan\nc: {x: 1,\n  x: 2}\n? [k]\n: 1\nd: 1e999\ne: fine\n"
    file = parse_sweep_text(text, "f.yaml")
    assert file.problems == [
        "f.yaml:1: a: tags are not read, got !mine; remove it",
        "f.yaml:2: b: must be a finite number, got .nan",
        "f.yaml:4: c.x: must appear once, stands on line 3 already",
        "f.yaml:5: a key must be a plain text",
        "f.yaml:7: d: must be a finite number, got 1e999",
    ]
    assert file.values["e"] == "fine"
    assert file.values["c"] == {"x": 1}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    for path, reason in (
        (tmp_path / "none.yaml", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "latin.yaml", "it is not UTF-8 text"),
    ):
        with pytest.raises(SpecError) as caught:
            read_sweep_file(path)
        assert caught.value.problems == [f"{path}: must be a readable sweep file: {reason}"]


def overridden(*overrides: str) -> SweepFile:
    file = parse_sweep_text(TEXT, "f.yaml")
    apply_overrides(file, overrides)
    return file


def test_overrides_set_add_and_replace_in_order() -> None:
    file = overridden("a=2", "b.e.f=no", "new.deep.key=[1, 2]", "a=3", "b.c=x=y")
    assert file.values["a"] == 3
    assert file.values["new"] == {"deep": {"key": [1, 2]}}
    assert file.values["b"] == {"c": "x=y", "e": {"f": "no"}}
    assert file.where(("a",)) == "override a=3: a"
    assert file.where(("new", "deep", "key", 0)) == "override new.deep.key=[1, 2]: new.deep.key.0"
    assert file.where(("b", "e")) == "f.yaml:5: b.e"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("a", "must be KEY=VALUE, such as search.num_trials=8, got 'a'"),
        ("=1", "must be KEY=VALUE"),
        (".a=1", "must be KEY=VALUE"),
        ("a b=1", "must be KEY=VALUE"),
        ("a.x=1", "a.x=1: a is no mapping, got 1"),
        ("b.c.0=1", "b.c.0=1: b.c is no mapping"),
        ("a={x: 1, x: 2}", "a: must appear once|x: must appear once"),
        ("a=[1", "must be a YAML value, got '.1'"),
        ("a=-.inf", "a=-.inf: must be a finite number, got -.inf"),
    ],
)
def test_overrides_that_cannot_be(override: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        overridden(override)


def test_an_override_within_itself_has_no_end() -> None:
    with pytest.raises(UsageError, match="must have an end"):
        overridden("a=&a [*a]")


def test_an_override_of_one_section_leaves_the_section_that_it_was_copied_to() -> None:
    assert overridden("b.e.f=no").values["g"] == {"f": "yes"}
