"""Names of the splits, as people write them."""

from __future__ import annotations

from collections.abc import Iterable

PARTS = ("train", "feedback", "select", "test")

SPELLINGS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "feedback": ("feedback",),
    "select": ("select", "validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing"),
}
"""Split -> its names in lower case, the project's own first."""

_PART_OF = {name: part for part, names in SPELLINGS.items() for name in names}


def split_named(text: str) -> str | None:
    """The split that a text names, in any case and with any blanks around it; None where it names none."""
    return _PART_OF.get(text.strip().lower())


def spellings() -> str:
    """All names, for messages: ``train, feedback, select (or validation, ...), test``."""
    return ", ".join(
        part if part != "select" else f"select (or {', '.join(SPELLINGS['select'][1:])})" for part in PARTS
    )


def renamed(names: Iterable[str]) -> list[str]:
    """``'dev' is select`` for every name that is not the project's own, sorted; names of no split are left out."""
    return [
        f"{name!r} is {part}"
        for name in sorted(set(names))
        if (part := split_named(name)) is not None and name != part
    ]
