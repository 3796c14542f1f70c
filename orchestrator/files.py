"""Files that are whole at any instant, the old or the new one, whatever is killed when."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from orchestrator.documents import Document
from orchestrator.errors import PreflightError
from selmix.files import NOT_ORDINARY, written_aside

ADVICE = "choose another --runs folder"


def write_atomically(path: Path, content: bytes, advice: str = ADVICE) -> None:
    """Write aside, sync, and rename over ``path``.

    Args:
        path: file to write.
        content: of the file.
        advice: see :func:`writing`.
    Raises:
        PreflightError: the folder or the file cannot be written; ``path`` is as it was.
    """
    with writing(path, advice), written_aside(path) as aside, aside.open("wb") as file:
        file.write(content)
        file.flush()
        # A rename may reach the disk before the content: after a power cut the file would be empty.
        os.fsync(file.fileno())


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """:func:`write_atomically` of an indented JSON document, keys in the order given."""
    write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())


def read_json(path: Path) -> Document:
    """The JSON object in ``path``.

    Raises:
        PreflightError: it cannot be read or is no JSON object.
    """
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PreflightError(f"{path}: must be a readable JSON document: {error}") from error
    if not isinstance(document, dict):
        raise PreflightError(f"{path}: must be a JSON object, got {type(document).__name__}")
    return document


def drop_torn_line_(file: IO[bytes]) -> None:
    """Cut the bytes after the last newline of a file open for reading and appending, in place."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    # The one writer ends every line, so only a killed one leaves this; else the file is never read as a whole.
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)


@contextlib.contextmanager
def writing(path: Path, advice: str = ADVICE) -> Iterator[None]:
    """Turn an error of the system while ``path`` is written into a message with the path and exit code 4.

    Args:
        path: shown in the message.
        advice: shown in the message: what the user can do depends on whose folder it is.
    Raises:
        PreflightError: the system refused.
    """
    try:
        yield
    except OSError as error:
        # Not every OSError comes from the system with a number; such a one has no strerror.
        raise PreflightError(f"{path}: must be writable: {error.strerror or error}; {advice}") from error


def check_writable(folder: Path, advice: str = ADVICE) -> None:
    """Check that a folder can be made and written; nothing is left behind.

    Args:
        folder: need not exist.
        advice: see :func:`writing`.
    Raises:
        PreflightError: it could not.
    """
    _try_to_write(folder, folder, advice)


def check_file_writable(path: Path, advice: str = ADVICE) -> None:
    """Check that a file can be made, or written aside and renamed over the one that is there; nothing is left behind.

    Args:
        path: of the file.
        advice: see :func:`writing`.
    Raises:
        PreflightError: it could not.
    """
    _try_to_write(path, path.parent, advice)
    if path.exists() and not path.is_file():
        there = "a folder lies there" if path.is_dir() else NOT_ORDINARY
        raise PreflightError(f"{path}: must be writable: {there}; {advice}")


def _try_to_write(path: Path, folder: Path, advice: str) -> None:
    """Write to a folder; ``path`` is shown in the message."""
    with writing(path, advice):
        # Folders that are missing would be made in the nearest one that exists: that one must be writable.
        existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
