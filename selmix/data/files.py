"""Images in files: one folder per class, or list files of paths and labels (ImageNet-LT, iNaturalist, Places-LT)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from selmix.data.images import SUFFIXES, Images
from selmix.data.longtail import split_by_class
from selmix.data.sizes import check_held, held_by_class, size_problems, sweep_data
from selmix.data.splits import Split, SweepData

PARTS = ("train", "feedback", "select", "test")
Listed = tuple[list[str], Tensor]  # files and their labels


@dataclass(frozen=True)
class ImageFolderConfig:
    """A folder with a folder of images for each class, or with such a folder for some of the splits.

    Attributes:
        path: folder with ``CLASS/*.jpg``, or with ``train/CLASS/*.jpg`` and any of ``feedback``, ``select`` and
            ``test`` (``val`` counts as select).
        size: height and width that images are brought to.
        feedback: samples per class, drawn from train where the split has no folder.
        select: samples per class, drawn from train where the split has no folder.
        test: samples per class, drawn from train where the split has no folder.
        seed: of the draw; the rest is train.
    Raises:
        ValueError: a size out of range. Reading raises ValueError for folders that are missing or empty.
    """

    path: str
    size: int = 224
    feedback: int = 20
    select: int = 24
    test: int = 50
    seed: int = 0

    name: ClassVar[str] = "image_folder"

    def __post_init__(self) -> None:
        problems = size_problems({"size": (self.size, 8), "feedback": (self.feedback, 0), "select": (self.select, 1),
                                  "test": (self.test, 1)})  # fmt: skip
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (3, self.size, self.size)

    @cached_property
    def _folders(self) -> dict[str, Path]:
        """Folder of each split; only ``train`` where classes lie at the top."""
        top = Path(self.path)
        if not top.is_dir():
            raise ValueError(f"{top}: must be a folder of images, there is none")
        if not (top / "train").is_dir():
            return {"train": top}
        folders = {part: top / part for part in PARTS if (top / part).is_dir()}
        # Many data sets call their second split ``val``.
        if "select" not in folders and (top / "val").is_dir():
            folders["select"] = top / "val"
        return folders

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the class folders of train, sorted."""
        folder = self._folders["train"]
        # Sorted: the order of a directory depends on the file system, and labels must not.
        names = tuple(sorted(child.name for child in folder.iterdir() if child.is_dir()))
        if len(names) < 2:
            raise ValueError(
                f"{folder}: must hold a folder for each of two or more classes, got {len(names)}"
            )
        return names

    @property
    def train_sizes(self) -> list[int]:
        """Training samples of each class."""
        return held_by_class(self._listed["train"][1], self.class_names)

    @cached_property
    def _listed(self) -> dict[str, Listed]:
        listed = {part: self._in_folder(folder) for part, folder in self._folders.items()}
        sizes = {part: getattr(self, part) for part in PARTS[1:] if part not in listed}
        # Last, as it replaces train by the rest of it.
        return listed | _drawn(self.path, listed["train"], sizes, self.class_names, self.seed)

    def _in_folder(self, folder: Path) -> Listed:
        strange = sorted({p.name for p in folder.iterdir() if p.is_dir()} - set(self.class_names))
        if strange:
            raise ValueError(f"{folder}: classes must be those of train, got {strange[0]!r} too")
        files: list[str] = []
        labels: list[int] = []
        for k, name in enumerate(self.class_names):
            home = folder / name
            # A split may lack a class here: whoever loads it decides whether that will do.
            inside = (
                sorted(str(p) for p in home.rglob("*") if p.suffix.lower() in SUFFIXES)
                if home.is_dir()
                else []
            )
            files += inside
            labels += [k] * len(inside)
        if not files:
            raise ValueError(f"{folder}: must hold JPEG or PNG images in its class folders, there is none")
        return files, torch.tensor(labels).long()

    def load(self) -> SweepData:
        """Load train, feedback and select."""
        # ``p=p``: a closure would see the last part.
        parts = {p: lambda p=p: _as_split(self._listed[p], self.size) for p in PARTS}
        return sweep_data(self.name, self.class_names, parts)

    def load_test(self) -> Split:
        """Load the test split, kept apart from the data that a sweep sees."""
        return _as_split(self._listed["test"], self.size)


@dataclass(frozen=True)
class ImageListConfig:
    """List files with one line ``PATH LABEL`` per image, as ImageNet-LT, iNaturalist and Places-LT are given.

    Attributes:
        root: folder that the paths are relative to.
        train_list: file of the training images.
        held_list: file of the held-out images (``ImageNet_LT_val.txt``), from which feedback and select are drawn.
        test_list: file of the test images.
        feedback: samples per class, drawn from the held-out list; the rest of it is select.
        size: height and width that images are brought to.
        seed: of the draw.
    Raises:
        ValueError: a size out of range. Reading raises ValueError for lists that are missing or wrong, with the line.
    """

    root: str
    train_list: str
    held_list: str
    test_list: str
    feedback: int = 10
    size: int = 224
    seed: int = 0

    name: ClassVar[str] = "image_list"

    def __post_init__(self) -> None:
        if problems := size_problems({"size": (self.size, 8), "feedback": (self.feedback, 0)}):
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
        """Texts ``0`` to ``K - 1``, with K from the training list."""
        return tuple(str(k) for k in range(int(self._train[1].max()) + 1))

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
        parts = {p: lambda p=p: _as_split(self._listed[p], self.size) for p in PARTS}
        return sweep_data(self.name, self.class_names, parts)

    def load_test(self) -> Split:
        """Load the test split, kept apart from the data that a sweep sees."""
        return _as_split(self._listed["test"], self.size)


def _as_split(listed: Listed, size: int) -> Split:
    files, labels = listed
    return Split(Images(files=tuple(files), size=size), labels)


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
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        # From the right: a path may hold spaces.
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdigit():
            raise ValueError(
                f"{path}:{number}: must read PATH LABEL with a whole number >= 0, got {line[:60]!r}"
            )
        files.append(str(root / name))
        labels.append(int(label))
    if not files:
        raise ValueError(f"{path}: must list an image at least, got none")
    return files, torch.tensor(labels).long()
