"""Files that are either the old or the new whole, whatever is killed when."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

from orchestrator.errors import PreflightError


def write_atomically(path: Path, content: bytes) -> None:
    """Write aside in the same folder (a rename does not cross file systems), sync, rename over ``path``.

    Raises:
        PreflightError: the folder or the file cannot be written; ``path`` is as it was.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(aside).chmod(0o644)  # mkstemp's 0600 would lock colleagues on shared storage out
            Path(aside).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(aside).unlink()
            raise


def write_json(path: Path, document: dict[str, Any]) -> None:
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


def known_fields(kind: type[Any], document: dict[str, Any]) -> dict[str, Any]:
    """The keys that are fields of the dataclass: a newer version's further keys do not stop an older reader."""
    names = {item.name for item in fields(kind)}
    return {key: value for key, value in document.items() if key in names}


def drop_torn_line_(file: IO[bytes]) -> None:
    """Cut what follows the last newline of a file open for reading and appending, in place."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says while ``path`` is written into a message with the path and exit code 4."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise PreflightError(f"{path}: must be writable: {reason}; choose another --runs folder") from error
