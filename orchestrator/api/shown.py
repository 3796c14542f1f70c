"""A document of a verb as a notebook shows it: readable where it is the last line of a cell, typed where it is used."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from orchestrator.documents import Document, to_document
from orchestrator.table import printable

T = TypeVar("T")
WIDTH = 120
"""Columns of the text, which no terminal says here."""


@dataclass(frozen=True, repr=False)
class Shown(Generic[T]):
    """A document with its text; nothing is printed unless it is shown.

    Attributes:
        document: typed values, as the verb's ``--json`` has them.
        text: (document, width) -> text, as the verb prints it.
    """

    document: T
    text: Callable[[T, int | None], str]

    def as_dict(self) -> Document:
        """The document as the verb's ``--json`` prints it."""
        return to_document(self.document)

    def __str__(self) -> str:
        return printable(self.text(self.document, WIDTH))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        answer, _, rest = str(self).partition("\n")
        return f"<pre><b>{html.escape(answer)}</b>\n{html.escape(rest)}</pre>"
