"""Dataclasses as JSON objects and back, also from later versions."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.documents import from_document, json_schema, to_document
from orchestrator.records.types import Figure


@dataclass(frozen=True)
class Sample:
    """A sample of what records hold."""

    name: str
    figures: dict[str, Figure]
    seeds: list[int] = field(default_factory=list)
    note: str | None = None


FIGURES = st.builds(Figure, *[st.floats(allow_nan=False, allow_infinity=False)] * 3)
SAMPLES = st.builds(
    Sample,
    st.text(),
    st.dictionaries(st.text(), FIGURES, max_size=2),
    st.lists(st.integers()),
    st.none() | st.text(),
)


@settings(max_examples=40, deadline=None)
@given(SAMPLES)
def test_a_document_comes_back_as_the_value_it_was_made_from(sample: Sample) -> None:
    document = to_document(sample)
    assert list(document) == ["name", "figures", "seeds", "note"]
    assert from_document(Sample, document) == sample


def test_keys_of_a_later_version_are_left_out_and_absent_ones_have_their_defaults() -> None:
    document = {"name": "a", "figures": {"m": {"value": 1, "low": 0, "high": 1, "added": 2}}, "added": {}}
    assert from_document(Sample, document) == Sample("a", {"m": Figure(1, 0, 1)})
    assert document["added"] == {}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"figures": {}}, "name\n  Field required"),
        ({"name": 3, "figures": {}}, "name\n  Input should be a valid string"),
        ({"name": "a", "figures": {"m": {"value": 1, "low": 0}}}, "figures.m.high\n  Field required"),
        ({"name": "a", "figures": {}, "seeds": None}, "seeds\n  Input should be a valid list"),
    ],
)
def test_a_missing_key_and_another_type_are_named(document: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        from_document(Sample, document)


def test_the_schema_is_open_and_requires_what_a_writer_always_writes() -> None:
    schema = json_schema(Sample, "a sample")
    assert schema["title"] == "a sample"
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema.get("additionalProperties") is not False
    assert set(schema["properties"]) == {"name", "figures", "seeds", "note"}
    assert {"name", "figures"} <= set(schema["required"])
