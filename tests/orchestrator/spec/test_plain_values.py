"""Values of Python as a sweep file: what is kept beside a result reads as the same values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.spec.plain_values import file_of_values, text_of
from orchestrator.spec.yaml_file import parse_sweep_text

texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8) | st.sampled_from(
    ["1e-3", "yes", "off", "null", "~", ".inf", "0x1f", "2020-01-01", "a: b", "- x", "#", "é", "1_000", "+1", "=", "<<"]
)  # fmt: skip
numbers = st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(texts, values, max_size=4))
def test_the_text_reads_as_the_same_values(plain: dict[str, Any]) -> None:
    file = file_of_values(plain, "spec")
    assert file.problems == []
    assert file.values == plain
    assert parse_sweep_text(text_of(plain), "spec").values == plain


def test_values_that_stand_for_plain_ones() -> None:
    shared = (1, 2)
    file = file_of_values(
        {
            "a": np.float32(0.5),
            "b": np.int64(3),
            "c": shared,
            "d": Path("x/y"),
            "e": shared,
            "f": np.bool_(True),
        },
        "spec",
    )
    assert file.values == {"a": 0.5, "b": 3, "c": [1, 2], "d": "x/y", "e": [1, 2], "f": True}
    assert file.where(("a",)) == "spec: a"


def test_every_value_that_no_file_can_hold_is_named() -> None:
    with pytest.raises(SpecError) as bad:
        file_of_values({"a": object(), "b": {"c": [np.zeros(2)]}}, "spec")
    assert bad.value.problems == [
        "spec: a: must be a number, a text, a list or a mapping, got object",
        "spec: b.c.0: must be a number, a text, a list or a mapping, got ndarray",
    ]
    with pytest.raises(SpecError, match="spec: must be a mapping of keys"):
        file_of_values([1], "spec")  # type: ignore[arg-type]
    assert file_of_values({"a": float("inf")}, "spec").problems == [
        "spec: a: must be a finite number, got .inf"
    ]
