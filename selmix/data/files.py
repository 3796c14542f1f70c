"""Images in files: one folder per class, or list files of paths and labels (ImageNet-LT, iNaturalist, Places-LT)."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from selmix.data.folders import (
    FoundFiles,
    class_folders,
    earlier_images,
    find_images,
    left_out,
    split_folders,
)
from selmix.data.images import SUFFIXES, Images
from selmix.data.longtail import split_by_class
from selmix.data.preprocess import Preprocess
from selmix.data.sizes import check_held, held_by_class, order_problems, size_problems, sweep_data
from selmix.data.split_names import PARTS
from selmix.data.splits import Split, SweepData
from selmix.files import not_utf8

Listed = tuple[list[str], Tensor]  # files and their labels


@dataclass(frozen=True)
class ImageFolderConfig(Preprocess):
    """A folder with a folder of images for each class, or with such a folder for some of the splits.

    Attributes:
        path: folder with ``CLASS/*.jpg``, or with ``train/CLASS/*.jpg`` and any of ``feedback``, ``select`` (or
            ``val``, ``valid``, ``validation``) and ``test``, in any case.
        feedback: samples per class, drawn from train where the split has no folder.
        select: samples per class, drawn from train where the split has no folder.
        test: samples per class, drawn from train where the split has no folder.
        seed: of the draw; the rest is train.
        class_order: names of the class folders in the order of the labels (its key is ``class_names``); None: sorted.
        listing: 2, or 1 for what earlier versions listed: JPEG and PNG alone, hidden folders too, and ``train``,
            ``val`` and so on in lower case only.
        allow_duplicates: True if images of test may be in another split too, or under two labels.
    Raises:
        ValueError: a size out of range. Reading raises ValueError for folders that are missing or empty.
    """

    path: str
    feedback: int = 20
    select: int = 24
    test: int = 50
    seed: int = 0
    class_order: tuple[str, ...] | None = None
    listing: int = 2
    allow_duplicates: bool = False

    name: ClassVar[str] = "image_folder"

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = size_problems(
            {"feedback": (self.feedback, 0), "select": (self.select, 1), "test": (self.test, 1)}
        )
        problems += [*self.problems(), *order_problems(self.class_order)]
        if self.listing not in (1, 2):
            problems.append(f"listing: must be 1 or 2, got {self.listing}")
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (3, self.size, self.size)

    @cached_property
    def _folders(self) -> dict[str, Path]:
        """Folder of each split; only ``train`` where classes lie at the top."""
        top = Path(self.path)
        return split_folders(top).folders if self.listing > 1 else _earlier_folders(top)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the class folders of train, in the order that was given, else sorted."""
        folder = self._folders["train"]
        # Sorted: the order of a directory depends on the file system, and labels must not.
        earlier = sorted(child.name for child in folder.iterdir() if child.is_dir())
        names = tuple(class_folders(folder) if self.listing > 1 else earlier)
        if len(names) < 2:
            shown = f": {names[0]}" if names else ""
            raise ValueError(
                f"{folder}: must hold a folder for each of two or more classes, got {len(names)}{shown}"
            )
        if self.class_order is None:
            return names
        if missing := [name for name in self.class_order if name not in names]:
            raise ValueError(f"{folder}: class_names must be its class folders, there is no {missing[0]!r}")
        if unnamed := [name for name in names if name not in self.class_order]:
            raise ValueError(f"{folder}: class_names must name every class folder, it lacks {unnamed[0]!r}")
        return self.class_order

    @property
    def train_sizes(self) -> list[int]:
        """Training samples of each class."""
        return held_by_class(self._listed["train"][1], self.class_names)

    @property
    def notes(self) -> list[str]:
        """Notes on what was left out of the folder, and which folder is which split, one line each."""
        if self.listing == 1:
            return []
        top = Path(self.path)
        found = [each for part in self._found.values() for each in part]
        return [*split_folders(top).notes, *left_out(found, top), *self._beside()]

    def _beside(self) -> list[str]:
        """A line for each split with images that lie in no class folder."""
        lines = []
        for part, folder in self._folders.items():
            images = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file()]
            if images:
                lines.append(f"left out {len(images)} images of {part} that lie in no class folder")
        return lines

    @cached_property
    def _found(self) -> dict[str, list[FoundFiles]]:
        """Files of each class in each split that has a folder."""
        return {part: self._in_folder(folder) for part, folder in self._folders.items()}

    @cached_property
    def _listed(self) -> dict[str, Listed]:
        listed = {part: self._as_listed(part, found) for part, found in self._found.items()}
        sizes = {part: getattr(self, part) for part in PARTS[1:] if part not in listed}
        # Last, as it replaces train by the rest of it.
        return listed | _drawn(self.path, listed["train"], sizes, self.class_names, self.seed)

    def _in_folder(self, folder: Path) -> list[FoundFiles]:
        held = (
            {p.name for p in folder.iterdir() if p.is_dir()} if self.listing == 1 else class_folders(folder)
        )
        strange = sorted(set(held) - set(self.class_names))
        if strange:
            raise ValueError(f"{folder}: classes must be those of train, got {strange[0]!r} too")
        # A split may lack a class here: whoever loads it decides whether that will do.
        homes = [folder / name for name in self.class_names]
        if self.listing == 1:
            return [FoundFiles(earlier_images(home) if home.is_dir() else []) for home in homes]
        return [find_images(home) if home.is_dir() else FoundFiles() for home in homes]

    def _as_listed(self, part: str, found: Sequence[FoundFiles]) -> Listed:
        folder = self._folders[part]
        files = [file for each in found for file in each.images]
        if not files:
            others = "; ".join(left_out(found, folder))
            raise ValueError(
                f"{folder}: must hold images in its class folders, there is none{f' ({others})' if others else ''}"
            )
        sizes = torch.tensor([len(each.images) for each in found])
        return files, torch.repeat_interleave(torch.arange(len(found)), sizes)

    def load(self) -> SweepData:
        """Load train, feedback and select."""
        # ``p=p``: a closure would see the last part.
        parts = {p: lambda p=p: _as_split(self._listed[p], self) for p in PARTS}
        return sweep_data(self.name, self.class_names, parts)

    def load_test(self) -> Split:
        """Load the test split, kept apart from the data that a sweep sees."""
        return _as_split(self._listed["test"], self)


@dataclass(frozen=True)
class ImageListConfig(Preprocess):
    """List files with one line ``PATH LABEL`` per image, as ImageNet-LT, iNaturalist and Places-LT are given.

    Attributes:
        root: folder that the paths are relative to.
        train_list: file of the training images.
        held_list: file of the held-out images (``ImageNet_LT_val.txt``), from which feedback and select are drawn.
        test_list: file of the test images.
        feedback: samples per class, drawn from the held-out list; the rest of it is select.
        seed: of the draw.
        class_order: names of the classes in the order of the labels (the key is ``class_names``); None: the labels.
        allow_duplicates: True if images of test may be in another split too, or under two labels.
    Raises:
        ValueError: a size out of range. Reading raises ValueError for lists that are missing or wrong, with the line.
    """

    root: str
    train_list: str
    held_list: str
    test_list: str
    feedback: int = 10
    seed: int = 0
    class_order: tuple[str, ...] | None = None
    allow_duplicates: bool = False

    name: ClassVar[str] = "image_list"

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = [*size_problems({"feedback": (self.feedback, 0)}), *self.problems()]
        if problems := [*problems, *order_problems(self.class_order)]:
            raise ValueError("\n".join(problems))

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (3, self.size, self.size)

    @property
    def split(self) -> str:
        """Always ``lists``: the list files, not sizes, decide the split of an image."""
        return "lists"

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names that were given, else the texts ``0`` to ``K - 1``, with K from the training list."""
        count = int(self._train[1].max()) + 1
        if self.class_order is None:
            return tuple(str(k) for k in range(count))
        if len(self.class_order) != count:
            raise ValueError(
                f"{self.train_list}: class_names must name its {count} classes, got {len(self.class_order)}"
            )
        return self.class_order

    @cached_property
    def _train(self) -> Listed:
        return _read_list(Path(self.train_list), Path(self.root))

    @property
    def train_sizes(self) -> list[int]:
        """Training samples of each class."""
        return held_by_class(self._train[1], self.class_names)

    @cached_property
    def _listed(self) -> dict[str, Listed]:
        held = _read_list(Path(self.held_list), Path(self.root))
        test = _read_list(Path(self.test_list), Path(self.root))
        for name, part in ((self.held_list, held), (self.test_list, test)):
            if int(part[1].max()) >= len(self.class_names):
                raise ValueError(
                    f"{name}: labels must be those of the training list, below {len(self.class_names)}, "
                    f"got {int(part[1].max())}"
                )
        sizes = {"feedback": self.feedback}
        drawn = _drawn(self.held_list, held, sizes, self.class_names, self.seed, rest="select")
        return {"train": self._train, "feedback": drawn["feedback"], "select": drawn["select"], "test": test}

    def load(self) -> SweepData:
        """Load train, feedback and select."""
        parts = {p: lambda p=p: _as_split(self._listed[p], self) for p in PARTS}
        return sweep_data(self.name, self.class_names, parts)

    def load_test(self) -> Split:
        """Load the test split, kept apart from the data that a sweep sees."""
        return _as_split(self._listed["test"], self)


def _as_split(listed: Listed, steps: Preprocess) -> Split:
    files, labels = listed
    return Split(Images(files=tuple(files), **vars(steps.preprocess)), labels)


def _earlier_folders(top: Path) -> dict[str, Path]:
    """Folder of each split as earlier versions took it."""
    if not top.is_dir():
        raise ValueError(f"{top}: must be a folder of images, there is none")
    if not (top / "train").is_dir():
        return {"train": top}
    folders = {part: top / part for part in PARTS if (top / part).is_dir()}
    if "select" not in folders and (top / "val").is_dir():
        folders["select"] = top / "val"
    return folders


def _drawn(
    source: str,
    pool: Listed,
    sizes: dict[str, int],
    class_names: Sequence[str],
    seed: int,
    rest: str = "train",
) -> dict[str, Listed]:
    """Draw parts of ``sizes`` samples per class from ``pool``.

    Args:
        source: path of the pool, for messages.
        pool: files and their labels.
        sizes: part -> samples per class.
        class_names: in the order of the labels.
        seed: of the draw.
        rest: name of the part that keeps what is left, at least one sample per class.
    Returns:
        Part -> files and their labels.
    Raises:
        ValueError: a class of the pool holds too few samples.
    """
    files, labels = pool
    held = held_by_class(labels, class_names)
    taken = sum(sizes.values())
    splits = f"{', '.join(sizes)} and one for {rest}" if sizes else rest
    # One more than is taken, so that no class is missing from the rest.
    check_held(source, class_names, held, [taken + 1] * len(held), splits)
    counts = [[size] * len(held) for size in sizes.values()] + [[count - taken for count in held]]
    parts = split_by_class(labels, counts, torch.Generator().manual_seed(seed))
    # In the order of the files, not of the draw.
    ordered = [index.sort().values for index in parts]
    return {
        part: ([files[k] for k in index.tolist()], labels[index])
        for part, index in zip([*sizes, rest], ordered, strict=True)
    }


def _read_list(path: Path, root: Path) -> Listed:
    if not path.is_file():
        raise ValueError(f"{path}: must be a list of images, there is none")
    files, labels = [], []
    # Some editors begin a file with a byte order mark, which is no part of the first path.
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    lines = content.split(b"\n")
    for number, raw in enumerate(lines, 1):
        try:
            line = raw.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}:{not_utf8(lines)}") from error
        if not line:
            continue
        # From the right: a path may hold spaces.
        name, label = line.rsplit(None, 1) if len(line.split(None, 1)) > 1 else ("", line)
        if not name or not label.isdigit():
            raise ValueError(
                f"{path}:{number}: must read PATH LABEL with a whole number >= 0, got {line[:60]!r}"
            )
        files.append(str(root / name))
        labels.append(int(label))
    if not files:
        raise ValueError(f"{path}: must list an image at least, got none")
    return files, torch.tensor(labels).long()
