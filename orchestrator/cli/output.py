"""Output of the verbs: stdout carries results only."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import TypeVar

from orchestrator.documents import to_document
from orchestrator.table import message, terminal_width

T = TypeVar("T")


def out(text: str) -> None:
    """Print a text, ended by one newline."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def err(text: str) -> None:
    """Print lines to stderr, wrapped where that is a terminal."""
    sys.stderr.write(message(text, terminal_width(sys.stderr)) + "\n")


def emit(options: argparse.Namespace, document: T, text: Callable[[T, int | None], str]) -> None:
    """Print a document: as JSON with ``--json``, else as text in the width of the terminal.

    Args:
        options: options of the command line.
        document: dataclass to print.
        text: (document, width) -> text.
    """
    out(json.dumps(to_document(document), indent=1) if options.json else text(document, terminal_width()))


def colour() -> bool:
    """True if stdout is a terminal and the user has not switched colours off (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
