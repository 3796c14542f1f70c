"""Output of the verbs: stdout carries results only."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from orchestrator.documents import to_document
from orchestrator.errors import PreflightError
from orchestrator.table import message, printable, terminal_width

T = TypeVar("T")


def prepare_streams() -> None:
    """Make stdout and stderr streams that can be written to, whatever the shell or its locale made of them."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # The shell closed it (``>&-``): what would be printed goes nowhere.
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - for the whole process
        elif isinstance(stream, io.TextIOWrapper):
            # Names of classes and files may have letters that an ASCII terminal lacks.
            stream.reconfigure(errors="backslashreplace")


def out(text: str) -> bool:
    """Print a text, ended by one newline.

    Returns:
        False where its reader has ended, as in ``selmix show x | head``: no error, and the verb keeps its exit code.
    Raises:
        PreflightError: stdout cannot be written, to a full disk for instance.
    """
    shown = printable(text)
    try:
        sys.stdout.write(shown if shown.endswith("\n") else shown + "\n")
        # Here and not at the exit of Python, which would ignore the error and print a traceback of its own.
        sys.stdout.flush()
    except BrokenPipeError:
        discard_stdout()
        return False
    except OSError as error:
        discard_stdout()
        raise PreflightError(
            f"stdout: must be writable: {error.strerror or error}; write to another place"
        ) from error
    return True


def err(text: str) -> None:
    """Print lines to stderr, wrapped where that is a terminal; nothing where it takes no more."""
    # A message that cannot be printed must not hide the exit code that goes with it.
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(message(printable(text), terminal_width(sys.stderr)) + "\n")
        sys.stderr.flush()


def discard_stdout() -> None:
    """Let what is still buffered for stdout go nowhere: Python complains at its exit where it cannot be flushed."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
