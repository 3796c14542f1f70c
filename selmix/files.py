"""Files that hold their old or their new content whatever is killed, and paths as people write them."""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

PATH_KEYS = ("path", "root", "train_list", "held_list", "test_list")
"""Keys of the configurations of data that name a file or folder."""

NOT_ORDINARY = "no ordinary file lies there"


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a new file beside ``path`` and rename it over ``path`` if the block succeeds.

    The new file lies in the same folder, because a rename does not cross file systems, and is removed if the block
    fails. The folder is made.

    Raises:
        OSError: something else than an ordinary file lies at ``path``, a device for example, which a rename would
            destroy.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, NOT_ORDINARY, str(path))
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


def not_utf8(lines: Iterable[bytes]) -> str:
    """What the first line of a text is that is no UTF-8, with its number and the command that mends it.

    Args:
        lines: of the text, one of which is none.
    Raises:
        ValueError: all of them are UTF-8.
    """
    for number, raw in enumerate(lines, 1):
        if number == 1 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "1: must be UTF-8, got UTF-16; convert it: iconv -f utf-16 -t utf-8"
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return (
                f"{number}: must be UTF-8, got the byte 0x{raw[error.start]:02x} at place {error.start + 1} "
                "(Latin-1?); convert it: iconv -f latin1 -t utf-8"
            )
    raise ValueError("the text must have a line that is no UTF-8")


def expanded_path(text: str) -> Path:
    """A path in which ``~`` is the home folder and ``$VARIABLE`` its value in the environment.

    Raises:
        ValueError: a variable that is not set, which would be a folder of that name.
    """
    expanded = os.path.expanduser(os.path.expandvars(text))  # noqa: PTH111 - Path has no expandvars
    unset = re.search(r"\$(\w+|\{\w+\})", expanded)
    if unset is not None:
        raise ValueError(
            f"must name variables that are set, got {unset[0]} in {text}; set it, or write the path out"
        )
    return Path(expanded)


def with_paths_expanded(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a configuration with ``~`` and ``$VARIABLE`` in its paths replaced.

    Raises:
        ValueError: ``KEY: ...``, a variable that is not set.
    """
    expanded = dict(keys)
    for key in PATH_KEYS:
        if isinstance(keys.get(key), str):
            try:
                expanded[key] = str(expanded_path(keys[key]))
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
    return expanded
