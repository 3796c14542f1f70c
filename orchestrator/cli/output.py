"""What verbs print: stdout carries results only."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any


def out(text: str) -> None:
    """Print a text, ended by one newline."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def emit(options: argparse.Namespace, document: dict[str, Any], text: Callable[[], str]) -> None:
    """Print a document: as JSON where ``--json`` was given, else as ``text()``."""
    out(json.dumps(document, indent=1) if options.json else text())
