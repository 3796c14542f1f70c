"""Atomic writes: a file holds either its old or its new content, even if the writer is killed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a new file beside ``path`` and rename it over ``path`` if the block succeeds.

    The new file lies in the same folder, because a rename does not cross file systems, and is removed if the block
    fails. The folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    # Only the name is needed: the block opens the file by itself.
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        # mkstemp makes the file 0600, which would lock out colleagues on shared storage.
        aside.chmod(0o644)
        aside.replace(path)
    # BaseException: an interrupt must not leave the part file behind either.
    except BaseException:
        # The error that led here is the one to report, not a failure to clean up.
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
