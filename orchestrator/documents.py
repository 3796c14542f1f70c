"""Typed values and plain documents: JSON is made here and read here, and its schema comes from the same types."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")
Document = dict[str, Any]
"""A JSON object."""

SCHEMA_VERSION = 1
"""Version of every document: keys and values of enumerations may be added under it, none changes its meaning."""


def to_document(value: Any) -> Document:
    """A dataclass as a JSON object, keys in the order of its fields."""
    document: Document = dataclasses.asdict(value)
    return document


def from_document(kind: type[T], document: Mapping[str, Any]) -> T:
    """A dataclass from a JSON object; keys of a later version, which it does not have, are left out.

    Raises:
        ValueError: a key is missing or of another type.
    """
    value: T = _adapter(kind).validate_python(dict(document))
    return value


def json_schema(kind: type[Any], title: str) -> Document:
    """The JSON Schema of a dataclass, open to further keys."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_adapter(kind).json_schema(mode="serialization"),
        "title": title,
    }


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}
"""Made once for each type: building one takes milliseconds, and a sweep has thousands of records."""


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter  # takes a tenth of a second, which `selmix --help` need not wait for

    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]
