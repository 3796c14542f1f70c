"""Folders of images: which one is which split, which files are images, and what is left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selmix.data.images import SUFFIXES
from selmix.data.split_names import PARTS, renamed, split_named
from selmix.data.wording import listed

# What archives and editors leave beside the data.
_LEFTOVERS = ("__MACOSX", "__pycache__")
EARLIER_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
"""Suffixes that earlier versions read, in these spellings only."""


@dataclass(frozen=True)
class SplitFolders:
    """Folders of the splits.

    Attributes:
        folders: split -> folder of its class folders; only ``train``, the top, where classes lie at the top.
        notes: what was left out or renamed, one line each.
    """

    folders: dict[str, Path]
    notes: tuple[str, ...] = ()


@dataclass
class FoundFiles:
    """Image files of a folder, and what else lies there.

    Attributes:
        images: paths, sorted.
        others: suffix in lower case -> number of files that are no image by their suffix.
        example: path of the first of these; None where there is none.
        hidden: paths of hidden files and folders.
    """

    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    example: str | None = None
    hidden: list[str] = field(default_factory=list)


def is_hidden(name: str) -> bool:
    """True for names that begin with a dot (``.ipynb_checkpoints``), and for leftovers of archives."""
    return name.startswith(".") or name in _LEFTOVERS


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder that are not hidden, sorted: the order on disk depends on the file system."""
    return sorted(child.name for child in folder.iterdir() if child.is_dir() and not is_hidden(child.name))


def split_folders(top: Path) -> SplitFolders:
    """Find the folders of the splits by their names, in any case: ``Train``, ``valid``, ``validation``, ``TEST``.

    Without a folder of training images with folders in it, the folders at the top are classes: a class may be called
    ``train``.

    Raises:
        ValueError: there is no such folder, two folders name one split, or there are splits but no train.
    """
    if not top.is_dir():
        raise ValueError(f"{top}: must be a folder of images, there is none")
    names = class_folders(top)
    hidden = sorted(child.name for child in top.iterdir() if child.is_dir() and is_hidden(child.name))
    notes = [f"left out hidden folders: {listed(hidden, 'folders')}"] if hidden else []
    named: dict[str, list[str]] = {part: [] for part in PARTS}
    for name in names:
        if (part := split_named(name)) is not None:
            named[part].append(name)
    named["train"] = [name for name in named["train"] if class_folders(top / name)]
    if not named["train"]:
        if names and all(split_named(name) for name in names):
            raise ValueError(
                f"{top}: must have a folder train with class folders beside {', '.join(names)}, there is none"
            )
        return SplitFolders({"train": top}, tuple(notes))
    folders = {}
    for part, candidates in named.items():
        # The project's own name comes before the others.
        if len(candidates) > 1 and part not in candidates:
            raise ValueError(
                f"{top}: {' and '.join(candidates)} both are {part}; rename or remove all but one"
            )
        if candidates:
            chosen = part if part in candidates else candidates[0]
            folders[part] = top / chosen
            notes += [f"left out {name}: {chosen} is {part}" for name in candidates if name != chosen]
    unlabelled = [part for part, folder in folders.items() if part != "train" and not class_folders(folder)]
    notes += [
        f"left out {folders[part].name}: it has no class folders, so its images have no labels"
        for part in unlabelled
    ]
    kept = {part: folder for part, folder in folders.items() if part not in unlabelled}
    notes += renamed(folder.name for folder in kept.values())
    if unknown := [name for name in names if split_named(name) is None]:
        notes.append(f"left out folders that name no split: {listed(unknown, 'folders')}")
    return SplitFolders(kept, tuple(notes))


def find_images(folder: Path) -> FoundFiles:
    """Find the images in a folder and the folders below it, by their suffixes in any case; hidden ones are left out."""
    found = FoundFiles()
    for home, folders, names in os.walk(folder):
        found.hidden += sorted(str(Path(home) / name) for name in (*folders, *names) if is_hidden(name))
        # In place, which is how os.walk is told where not to go.
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in names:
            suffix = Path(name).suffix.lower()
            if is_hidden(name):
                continue
            path = str(Path(home) / name)
            if suffix in SUFFIXES:
                found.images.append(path)
            else:
                found.others[suffix] += 1
                found.example = path if found.example is None else min(path, found.example)
    found.images.sort()
    found.hidden.sort()
    return found


def earlier_images(folder: Path) -> list[str]:
    """Images that earlier versions read: fewer suffixes, and hidden files and folders too."""
    return sorted(str(path) for path in folder.rglob("*") if path.suffix in EARLIER_SUFFIXES)


def left_out(found: Sequence[FoundFiles], top: Path) -> list[str]:
    """Notes on what finding images left out, one line each.

    Args:
        found: of each folder.
        top: folder that paths are shown relative to.
    """
    others: Counter[str] = Counter()
    for each in found:
        others.update(each.others)
    notes = []
    if others:
        kinds = ", ".join(
            f"{count} {suffix or 'without a suffix'}" for suffix, count in sorted(others.items())
        )
        example = min(each.example for each in found if each.example is not None)
        notes.append(
            f"left out {sum(others.values())} files of formats that are not read: {kinds} (such as "
            f"{_relative(example, top)})"
        )
    if hidden := [_relative(path, top) for each in found for path in each.hidden]:
        notes.append(f"left out hidden files and folders: {listed(hidden, 'of them')}")
    return notes


def _relative(path: str, top: Path) -> str:
    return str(Path(path).relative_to(top)) if Path(path).is_relative_to(top) else path
