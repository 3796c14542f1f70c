"""Files that are whole at any instant, the old or the new one, whatever is killed when."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from orchestrator.errors import PreflightError
from selmix.files import written_aside


def write_atomically(path: Path, content: bytes) -> None:
    """Write aside, sync, and rename over ``path``.

    Raises:
        PreflightError: the folder or the file cannot be written; ``path`` is as it was.
    """
    with writing(path), written_aside(path) as aside, aside.open("wb") as file:
        file.write(content)
        file.flush()
        # A rename may reach the disk before the content: after a power cut the file would be empty.
        os.fsync(file.fileno())


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """:func:`write_atomically` of an indented JSON document, keys in the order given."""
    write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
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
def writing(path: Path, advice: str = "choose another --runs folder") -> Iterator[None]:
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


def check_writable(path: Path, advice: str = "choose another --runs folder") -> None:
    """Check that ``path`` can be made and written; nothing is left behind.

    Raises:
        PreflightError: it could not.
    """
    # Folders that are missing would be made in the nearest one that exists: that one must be writable.
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    with writing(path, advice), tempfile.TemporaryFile(dir=existing):
        pass
