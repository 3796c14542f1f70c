"""Folders and files that workers share, on a common path or in an object store."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def fetched(filesystem: Any, address: str) -> Iterator[Path]:
    """Fetch a file or folder to a local path for the duration of the block.

    Args:
        filesystem: pyarrow's; with None ``address`` is a local path already.
        address: of the file or folder.
    """
    if filesystem is None:
        yield Path(address)
        return
    from pyarrow.fs import FileType, copy_files

    with tempfile.TemporaryDirectory(prefix="selmix-") as scratch:
        # Under its own name: weights are read by the suffix of their file.
        local = Path(scratch) / address.rpartition("/")[2]
        # pyarrow makes the folders inside a folder, but not the one that it copies to.
        if filesystem.get_file_info(address).type == FileType.Directory:
            local.mkdir()
        copy_files(address, str(local), source_filesystem=filesystem)
        yield local


@contextlib.contextmanager
def written(filesystem: Any, address: str) -> Iterator[Path]:
    """Folder to write files to; they are at ``address`` once the block has ended without an error."""
    if filesystem is None:
        Path(address).mkdir(parents=True, exist_ok=True)
        yield Path(address)
        return
    from pyarrow.fs import copy_files

    with tempfile.TemporaryDirectory(prefix="selmix-") as scratch:
        yield Path(scratch)
        copy_files(scratch, address, destination_filesystem=filesystem)
