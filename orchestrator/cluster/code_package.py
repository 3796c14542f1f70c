"""Code of a sweep as one zip file with a digest, which the nodes of a cluster run.

It holds selmix and the user's own modules only, by a list of what is taken: no .git, no data, no runs, no caches.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import sys
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.build.own_source import OURS, is_installed, root_of
from orchestrator.errors import PreflightError

TAKEN = (".py", ".yaml", ".typed")
SWEEP_FILE = "sweep.yaml"
MAX_BYTES = 512 * 2**20
"""Size from which on Ray refuses a package."""

EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time stamp of every member, so that the same files make the same zip file."""


@dataclass(frozen=True)
class Package:
    """Zip file of a sweep's code.

    Attributes:
        digest: over names and contents, not over how they were compressed.
        content: bytes of the zip file.
        names: members of the zip file, sorted.
    """

    digest: str
    content: bytes
    names: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Name under which Ray stores the package: by its digest, so that it travels once."""
        return f"_ray_pkg_{self.digest.removeprefix('sha256:')[:40]}.zip"


def sweep_package(file: bytes, references: Iterable[str], max_bytes: int = MAX_BYTES) -> Package:
    """Pack the installed packages of selmix, the sweep file, and the modules that hold the functions it names.

    Args:
        file: content of the sweep file.
        references: ``module:function`` names in it.
        max_bytes: size that the package must stay below.
    Raises:
        PreflightError: the package would be ``max_bytes`` or more.
    """
    files = own_files()
    for reference in sorted(set(references)):
        files |= user_files(reference.partition(":")[0])
    return pack({name: path.read_bytes() for name, path in files.items()} | {SWEEP_FILE: file}, max_bytes)


def pack(contents: Mapping[str, bytes], max_bytes: int = MAX_BYTES) -> Package:
    """Pack files into a zip file.

    Args:
        contents: member name -> content.
        max_bytes: size that the package must stay below.
    Raises:
        PreflightError: the package would be ``max_bytes`` or more.
    """
    total = hashlib.sha256()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        # Sorted, so that digest and bytes do not depend on the order in which a file system lists a folder.
        for name in sorted(contents):
            total.update(f"{name} {hashlib.sha256(contents[name]).hexdigest()}\n".encode())
            member = zipfile.ZipInfo(name, EPOCH)
            # Ray restores the permission bits of members when it unpacks them, and a ZipInfo has none by itself.
            member.external_attr = 0o644 << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, contents[name])
    content = buffer.getvalue()
    if len(content) >= max_bytes:
        largest = max(contents, key=lambda name: len(contents[name]))
        raise PreflightError(
            f"package: must be below {max_bytes / 2**20:g} MiB, Ray's limit, got {len(content) / 2**20:.1f} MiB; "
            f"its largest file is {largest}: move it out of the module's folder"
        )
    return Package(f"sha256:{total.hexdigest()}", content, tuple(sorted(contents)))


def own_files() -> dict[str, Path]:
    """Files of selmix as installed: name in the package -> path.

    Raises:
        PreflightError: one of its packages is not installed as files.
    """
    files: dict[str, Path] = {}
    for package in OURS:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise PreflightError(
                f"package: {package} must be installed as files, it is not found; install selmix again"
            )
        files |= _below(Path(spec.submodule_search_locations[0]), TAKEN)
    return files


def user_files(module: str) -> dict[str, Path]:
    """Source of a user's module: all of its package, or the module and the modules beside it that were imported.

    Installed packages and the standard library stay behind: the nodes have their own.

    Args:
        module: dotted name; it is imported.
    Returns:
        Name in the package -> path.
    """
    source = getattr(importlib.import_module(module), "__file__", None)
    top = module.partition(".")[0]
    # A built-in module has no file.
    if source is None or top in OURS or is_installed(Path(source)):
        return {}
    # The folder that was on sys.path: names in the package are relative to it, so that the nodes import alike.
    root = root_of(module, Path(source))
    if (root / top).is_dir():
        return _below(root / top, (".py",))
    # A single module: its folder may hold anything (a home folder), so only what importing it has loaded is taken. The
    # last condition leaves out files that lie below the folder but were imported by another path.
    return {
        path.relative_to(root).as_posix(): path
        # A copy, because other threads may import meanwhile.
        for name, loaded in list(sys.modules.items())
        for path in [_source_of(loaded)]
        if path is not None and path.is_relative_to(root) and not is_installed(path)
        if name.partition(".")[0] not in OURS
        if path.relative_to(root).as_posix() in {f"{_path(name)}.py", f"{_path(name)}/__init__.py"}
    }


def _below(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    return {
        f"{folder.name}/{path.relative_to(folder).as_posix()}": path
        for path in folder.rglob("*")
        if path.suffix in suffixes and path.is_file()
        if not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(folder).parts)
    }


def _source_of(module: Any) -> Path | None:
    source = getattr(module, "__file__", None)
    return Path(source).resolve() if isinstance(source, str) and source.endswith(".py") else None


def _path(module: str) -> str:
    return module.replace(".", "/")
