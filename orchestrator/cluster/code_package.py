"""The code of a sweep as one zip file with a digest: what the nodes of a cluster run.

Ours and the user's own modules only, by a list of what is taken: no .git, no data, no runs, no caches.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import PreflightError

OURS = ("orchestrator", "selmix", "sweeps", "trainables")
TAKEN = (".py", ".yaml", ".typed")
SWEEP_FILE = "sweep.yaml"
MOST_BYTES = 512 * 2**20
"""Ray refuses packages of this size and above."""

EPOCH = (1980, 1, 1, 0, 0, 0)
"""Of every member: the same files make the same zip file."""


@dataclass(frozen=True)
class Package:
    """``digest`` is over names and contents, not over how they were compressed."""

    digest: str
    content: bytes
    names: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """As Ray stores it: named by its digest, so that it travels once."""
        return f"_ray_pkg_{self.digest.removeprefix('sha256:')[:40]}.zip"


def sweep_package(file: bytes, references: Iterable[str], most_bytes: int = MOST_BYTES) -> Package:
    """The installed packages of selmix, the sweep file, and the modules that its functions are in.

    Args:
        file: content of the sweep file. references: ``module:function`` names in it.
    Raises:
        PreflightError: it would be ``most_bytes`` or more.
    """
    files = own_files()
    for reference in sorted(set(references)):
        files |= user_files(reference.partition(":")[0])
    return packed({name: path.read_bytes() for name, path in files.items()} | {SWEEP_FILE: file}, most_bytes)


def packed(contents: Mapping[str, bytes], most_bytes: int = MOST_BYTES) -> Package:
    """Member name -> content as a zip file; raises as :func:`sweep_package`."""
    total = hashlib.sha256()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(contents):
            total.update(f"{name} {hashlib.sha256(contents[name]).hexdigest()}\n".encode())
            member = zipfile.ZipInfo(name, EPOCH)
            member.external_attr = 0o644 << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, contents[name])
    content = buffer.getvalue()
    if len(content) >= most_bytes:
        largest = max(contents, key=lambda name: len(contents[name]))
        raise PreflightError(
            f"package: must be below {most_bytes / 2**20:g} MiB, the most that Ray takes, got "
            f"{len(content) / 2**20:.1f} MiB; its largest file is {largest}"
        )
    return Package(f"sha256:{total.hexdigest()}", content, tuple(sorted(contents)))


def own_files() -> dict[str, Path]:
    """Name in the package -> file, of what is installed of selmix."""
    files: dict[str, Path] = {}
    for package in OURS:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise PreflightError(f"package: {package} must be installed as files, it is not found")
        files |= _below(Path(spec.submodule_search_locations[0]), TAKEN)
    return files


def user_files(module: str) -> dict[str, Path]:
    """The source of a module of the user's: all of its package, or it and the modules beside it that it imported.

    Installed packages and the standard library stay behind: the nodes have their own.
    """
    source = getattr(importlib.import_module(module), "__file__", None)
    top = module.partition(".")[0]
    if source is None or top in OURS or _is_installed(Path(source)):
        return {}
    root = Path(source).resolve().parents[_depth(module, Path(source))]
    if (root / top).is_dir():
        return _below(root / top, (".py",))
    return {
        path.relative_to(root).as_posix(): path
        for name, loaded in list(sys.modules.items())
        for path in [_source_of(loaded)]
        if path is not None and path.is_relative_to(root) and not _is_installed(path)
        if name.partition(".")[0] not in OURS
        if path.relative_to(root).as_posix() in {f"{_path(name)}.py", f"{_path(name)}/__init__.py"}
    }


def references_in(values: Any) -> list[str]:
    """``module:function`` names where a sweep file may have them: the model and the objectives."""
    from selmix.user_code import is_reference

    names = [values["model"]["name"], *values["objectives"]]
    return [name for name in names if is_reference(name)]


def _below(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    return {
        f"{folder.name}/{path.relative_to(folder).as_posix()}": path
        for path in folder.rglob("*")
        if path.suffix in suffixes and path.is_file()
        if not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(folder).parts)
    }


def _is_installed(path: Path) -> bool:
    homes = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(path.resolve().is_relative_to(Path(home).resolve()) for home in homes if home)


def _depth(module: str, source: Path) -> int:
    return module.count(".") + (source.name == "__init__.py")


def _source_of(module: Any) -> Path | None:
    source = getattr(module, "__file__", None)
    return Path(source).resolve() if isinstance(source, str) and source.endswith(".py") else None


def _path(module: str) -> str:
    return module.replace(".", "/")
