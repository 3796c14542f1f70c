"""Paths in what is handed on: a pin names files, never where they lay on the machine that made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.documents import Document
from orchestrator.errors import UsageError
from orchestrator.records.folder import RunFolder
from orchestrator.table import printable
from selmix.files import PATH_KEYS, expanded_path

PRETRAIN_KEYS = ("checkpoint", "init")
_SECTIONS = {"data": PATH_KEYS, "pretrain": PRETRAIN_KEYS}


def portable(section: Document) -> Document:
    """A section of a sweep file whose absolute paths are relative to the working folder, or names alone.

    The content of what they name is in the digests of a pin.
    """
    keys = (*PATH_KEYS, *PRETRAIN_KEYS)
    return {
        key: portable_path(value) if key in keys and isinstance(value, str) else value
        for key, value in section.items()
    }


def portable_path(text: str) -> str:
    """A path without the place of the working folder: relative to it where it lies below, else its name."""
    path = Path(text)
    if not path.is_absolute():
        return text
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name


def located(
    sections: Mapping[str, Document], folder: RunFolder | None, overrides: Sequence[str]
) -> dict[str, Document]:
    """The sections of a pin that name files, with the paths that they have here.

    A path is the one that the user gives now; else that of the pin, where there is such a file; else that of the sweep,
    where its records are at hand.

    Args:
        sections: ``data`` and ``pretrain`` of the pin.
        folder: of the pin's sweep; None where it is not in the runs folder.
        overrides: ``SECTION.KEY=PATH`` each.
    Raises:
        UsageError: an override that names no path of the pin.
    """
    spec = folder.load_spec() if folder is not None else {}
    here = {name: dict(section) for name, section in sections.items()}
    for name, keys in _SECTIONS.items():
        for key in keys:
            value, known = here[name].get(key), spec.get(name, {}).get(key)
            if isinstance(value, str) and isinstance(known, str) and not expanded_path(value).exists():
                # Data that Python gave lie in the folder of the sweep, wherever that is by now.
                kept = None if folder is None else folder.arrays_path(Path(known).stem)
                here[name][key] = known if kept is None or not kept.is_file() else str(kept)
    for override in overrides:
        place, equals, path = override.partition("=")
        name, _, key = place.partition(".")
        if not equals or not isinstance(here.get(name, {}).get(key), str) or key not in _SECTIONS[name]:
            paths = [
                f"{n}.{k}" for n, keys in _SECTIONS.items() for k in keys if isinstance(here[n].get(k), str)
            ]
            raise UsageError(
                f"reproduce: must be KEY=PATH with one of {', '.join(paths) or 'none: the pin names no file'}, got "
                f"{printable(override)!r}"
            )
        here[name][key] = path
    return here
