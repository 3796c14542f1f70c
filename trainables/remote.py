"""Folders and files that workers share: on a path that all of them see, or in an object store."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def fetched(filesystem: Any, address: str) -> Iterator[Path]:
    """A file or folder as a local path while it is read.

    Args:
        filesystem: pyarrow's; None: ``address`` is a local path already.
    """
    if filesystem is None:
        yield Path(address)
        return
    from pyarrow.fs import copy_files

    with tempfile.TemporaryDirectory(prefix="selmix-") as scratch:
        local = Path(scratch) / address.rpartition("/")[2]
        copy_files(address, str(local), source_filesystem=filesystem)
        yield local


@contextlib.contextmanager
def written(filesystem: Any, address: str) -> Iterator[Path]:
    """A folder to write files to; they are at ``address`` once the block has ended without an error."""
    if filesystem is None:
        Path(address).mkdir(parents=True, exist_ok=True)
        yield Path(address)
        return
    from pyarrow.fs import copy_files

    with tempfile.TemporaryDirectory(prefix="selmix-") as scratch:
        yield Path(scratch)
        copy_files(scratch, address, destination_filesystem=filesystem)
