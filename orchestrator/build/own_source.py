"""Source of the functions of the user's own: found, known by its digest, kept beside results, imported from there."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.files import ADVICE, write_atomically
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import OwnSource
from selmix.user_code import is_reference

OURS = ("orchestrator", "selmix", "sweeps", "trainables")
"""Packages that are never the user's."""


@dataclass(frozen=True)
class OwnModule:
    """A module of the user's own with everything of theirs that it imports.

    Attributes:
        name: dotted.
        main: its file, relative to the folder that it is imported from.
        files: such a file -> content; its packages' ``__init__.py`` and what they import, too.
    """

    name: str
    main: str
    files: dict[str, bytes]

    @property
    def digest(self) -> str:
        """``sha256:...`` over names and contents of the files."""
        return digest_of(self.files)

    def record(self, folder: str) -> OwnSource:
        """As it is recorded where its files are kept in ``folder``."""
        return OwnSource(self.name, self.digest, f"{folder}/{self.main}", sorted(self.files))


def digest_of(files: Mapping[str, bytes]) -> str:
    """``sha256:...`` over names and contents."""
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{name} {hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return f"sha256:{total.hexdigest()}"


def references_in(values: Any) -> list[str]:
    """References to the user's code (``module:function``) in a sweep: its model and its functions of C.

    Args:
        values: resolved specification.
    """
    model = values["model"]["name"]
    return [*([model] if is_reference(model) else []), *functions_in(values)]


def functions_in(values: Any) -> list[str]:
    """Functions of C of the user's own (``module:function``) in a sweep: objectives, metric and bounds; each once.

    Args:
        values: resolved specification.
    """
    bounded = [constraint["metric"] for constraint in values.get("constraints", ())]
    names = [*values["objectives"], values.get("selection", {}).get("metric"), *bounded]
    return list(dict.fromkeys(name for name in names if name is not None and is_reference(name)))


def own_modules(references: Iterable[str]) -> list[OwnModule]:
    """Modules of the user's own that hold these functions, by name.

    Left out is what is installed, whose version the environment says, and what has no file.

    Args:
        references: ``module:function``; the modules are imported.
    """
    found = (own_module(name) for name in sorted({each.partition(":")[0] for each in references}))
    return [module for module in found if module is not None]


def own_module(name: str) -> OwnModule | None:
    """A module of the user's own with its source; None for one that is installed, or has no file.

    Args:
        name: dotted; it is imported.
    """
    source = getattr(importlib.import_module(name), "__file__", None)
    if source is None or name.partition(".")[0] in OURS or is_installed(Path(source)):
        return None
    main = Path(source).resolve()
    root = root_of(name, main)
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in _imported_by(main, root)}
    return OwnModule(name, main.relative_to(root).as_posix(), files)


def roots_of(references: Iterable[str]) -> list[Path]:
    """Folders that the user's modules are imported from, each once.

    Args:
        references: ``module:function``; the modules are imported.
    """
    roots: dict[Path, None] = {}
    for name in (each.partition(":")[0] for each in references):
        source = getattr(importlib.import_module(name), "__file__", None)
        if source is not None and name.partition(".")[0] not in OURS and not is_installed(Path(source)):
            roots[root_of(name, Path(source))] = None
    return list(roots)


def root_of(module: str, source: Path) -> Path:
    """The folder on ``sys.path`` that a module was imported from.

    Args:
        module: dotted name.
        source: its file.
    """
    # The name of a package is its folder's: its file lies one level deeper than that of a module of the same depth.
    return source.resolve().parents[module.count(".") + (source.name == "__init__.py")]


def is_installed(path: Path) -> bool:
    """True if a file belongs to the standard library or to an installed package."""
    homes = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(path.resolve().is_relative_to(Path(home).resolve()) for home in homes if home)


def _imported_by(main: Path, root: Path) -> set[Path]:
    """A file below ``root``, and all files there that it imports, wherever in its text it does so."""
    found: set[Path] = set()
    todo = [main, *_packages_of(main, root)]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found.add(path)
        for name in _imports(path, root):
            for target in _files_of(name, root):
                todo += [target, *_packages_of(target, root)]
    return found


def _imports(path: Path, root: Path) -> Iterator[str]:
    """Dotted names that a file may import, absolute; ``from a import b`` gives a.b too."""
    package = list(path.relative_to(root).parent.parts)
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)
            if base:
                yield base


def _files_of(name: str, root: Path) -> list[Path]:
    """File of a module below ``root``; none for one that lies elsewhere."""
    if name.partition(".")[0] in OURS:
        return []
    place = root.joinpath(*name.split("."))
    candidates = (place.with_name(f"{place.name}.py"), place / "__init__.py")
    return [path for path in candidates if path.is_file() and not is_installed(path)]


def _packages_of(path: Path, root: Path) -> list[Path]:
    """The ``__init__.py`` of every package that a file lies in."""
    inits = (
        folder / "__init__.py" for folder in path.parents if folder != root and folder.is_relative_to(root)
    )
    return [init for init in inits if init.is_file()]


def keep_sources(folder: RunFolder, modules: Sequence[OwnModule]) -> list[OwnSource]:
    """Copy the source of modules into the folder of a sweep.

    Args:
        folder: of the sweep.
        modules: to be kept.
    Returns:
        What the sweep's record says of them.
    """
    for module in modules:
        write_sources(folder.source_path, module.files)
        for name in module.files:
            folder.store.publish(folder.source_path / name)
    return [module.record(folder.source_path.name) for module in modules]


def write_sources(folder: Path, files: Mapping[str, bytes], advice: str = ADVICE) -> None:
    """Write files below a folder.

    Args:
        folder: need not exist.
        files: relative name -> content.
        advice: where the folder cannot be written.
    Raises:
        PreflightError: it cannot be.
    """
    for name, content in files.items():
        write_atomically(folder / name, content, advice)


def read_sources(folder: Path, source: OwnSource) -> dict[str, bytes] | str:
    """Read the kept files of a module.

    Args:
        folder: that holds them.
        source: what is recorded of it.
    Returns:
        Relative name -> content; where they are not what was recorded, the reason, which names the module.
    """
    try:
        files = {name: (folder / name).read_bytes() for name in source.files}
    except OSError as error:
        return f"module {source.module}: {error.filename}: must be readable: {error.strerror or error}; restore it"
    found = digest_of(files)
    if found != source.digest:
        return (
            f"module {source.module}: {folder / source.main}: must have the recorded digest {source.digest}, got "
            f"{found}; restore it"
        )
    return files


def changed_modules(before: Sequence[OwnSource], now: Sequence[OwnModule]) -> list[str]:
    """Recorded modules whose source is another one now, or is not there, each with both digests.

    Args:
        before: what is recorded.
        now: modules of the same functions as they are imported here.
    """
    digests = {module.name: module.digest for module in now}
    return [
        f"{each.module} ({_brief(each.digest)} -> {_brief(digests.get(each.module, 'not found'))})"
        for each in before
        if digests.get(each.module) != each.digest
    ]


def _brief(digest: str) -> str:
    return digest[:19]


@contextlib.contextmanager
def imported_from(folder: Path, sources: Sequence[OwnSource]) -> Iterator[None]:
    """Import modules from their kept files inside the block, whatever else has their names; then all is as it was.

    Args:
        folder: that holds the files.
        sources: what is kept there; none: nothing changes.
    """
    if not sources:
        yield
        return
    names = {_module_of(name) for source in sources for name in source.files}
    tops = {name.partition(".")[0] for name in names}

    def loaded() -> dict[str, Any]:
        return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in tops}

    before, path = loaded(), list(sys.path)
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(folder.resolve()))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path
        for name in loaded():
            del sys.modules[name]
        sys.modules.update(before)


def _module_of(file: str) -> str:
    """Dotted name of the module in a file."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
