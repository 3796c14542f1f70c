"""Official files of data sets: which ones a folder must hold, and how they come there.

They lie in an archive, which is extracted to where a configuration looks, or a package of the system installs them.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class OfficialFiles:
    """Files that a data set's folder must hold, and the archives that hold them.

    Attributes:
        dataset: official name.
        folder: folder of the files.
        archives: archive's file name -> the files that it brings; one archive is enough.
    """

    dataset: str
    folder: Path
    archives: dict[str, tuple[str, ...]]

    @property
    def is_ready(self) -> bool:
        """True if all the files of one archive lie in the folder."""
        return any(all((self.folder / f).is_file() for f in files) for files in self.archives.values())

    @property
    def advice(self) -> str:
        """Advice on what is missing, and how to get it."""
        return (
            f"{self.folder}: must hold the files of {self.dataset}, there are none; get its official archive, "
            f"{' or '.join(self.archives)}, from the data set's home page and put it in {self.folder.parent}"
        )

    def prepare(self) -> Path | None:
        """Extract the first archive that lies in or beside the folder.

        The files are read into a temporary folder on the same disk and renamed into place one by one, so that an
        interrupted extraction is repeated.

        Returns:
            The archive; None where the files are there already.
        Raises:
            ValueError: no archive (the message names it and its folder), or one that is damaged or lacks files.
            OSError: the folder cannot be written.
        """
        if self.is_ready:
            return None
        for name, files in self.archives.items():
            for place in (self.folder, self.folder.parent):
                if (place / name).is_file():
                    self._extract(place / name, files)
                    return place / name
        raise ValueError(self.advice)

    def _extract(self, archive: Path, files: tuple[str, ...]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Inside the folder itself: a rename does not cross file systems.
        with tempfile.TemporaryDirectory(prefix=".extracting-", dir=self.folder) as scratch:
            try:
                homes = _read_files(archive, files, Path(scratch))
            except (tarfile.TarError, EOFError, OSError, zlib.error) as error:  # what damaged files raise
                raise ValueError(f"{archive}: must be a whole archive of {self.dataset}: {error}") from error
            # An archive may spread these names over several folders; only a folder with all of them will do.
            whole = [home for home in homes if all((home / f).is_file() for f in files)]
            if not whole:
                raise ValueError(
                    f"{archive}: must hold {', '.join(files)} of {self.dataset} in one folder, it does not"
                )
            for file in files:
                (whole[0] / file).replace(self.folder / file)


@dataclass(frozen=True)
class PackagedFiles:
    """Files that a data set's folder must hold, each as it is or compressed by gzip, and the package with them.

    Attributes:
        dataset: official name.
        folder: folder of the files.
        files: their names, without ``.gz``.
        package: Debian's package that installs them.
    """

    dataset: str
    folder: Path
    files: tuple[str, ...]
    package: str

    @property
    def is_ready(self) -> bool:
        """True if all the files lie in the folder."""
        return not self._missing

    @property
    def advice(self) -> str:
        """Advice on what is missing, and how to get it."""
        return (
            f"{self.folder}: must hold the files of {self.dataset}, there is no "
            f"{', '.join(f'{name}[.gz]' for name in self._missing)}; install the package (apt-get install "
            f"{self.package}), or give the folder of the official files as data.path"
        )

    @property
    def _missing(self) -> list[str]:
        return [name for name in self.files if not any(path.is_file() for path in self._variants(name))]

    def _variants(self, name: str) -> tuple[Path, Path]:
        return self.folder / f"{name}.gz", self.folder / name

    def located(self, name: str) -> Path:
        """Path of a file; where it lies there in both forms, of the compressed one.

        Args:
            name: one of ``files``.
        Raises:
            ValueError: it is missing; the message names all that are, and says what to do.
        """
        for path in self._variants(name):
            if path.is_file():
                return path
        raise ValueError(self.advice)

    def prepare(self) -> None:
        """Check that the files are there; installing them is left to the system.

        Raises:
            ValueError: one is missing; the message says what to do.
        """
        if not self.is_ready:
            raise ValueError(self.advice)


def _read_files(archive: Path, files: tuple[str, ...], scratch: Path) -> list[Path]:
    """Copy the members of these names to ``scratch``, into one folder for each folder of the archive.

    The names in an archive are compared, never used as paths, and only regular files are read, so that nothing can
    lead outside.

    Returns:
        The folders in ``scratch``.
    """
    homes: dict[PurePosixPath, Path] = {}
    with tarfile.open(archive) as opened:
        # Member by member: Python 3.11.0 to 3.11.3 lack tarfile's extraction filters.
        for member in opened:
            path = PurePosixPath(member.name)
            if not member.isreg() or path.name not in files:
                continue
            # Numbered: a name from the archive never becomes a path.
            home = homes.setdefault(path.parent, scratch / str(len(homes)))
            home.mkdir(exist_ok=True)
            content = opened.extractfile(member)
            if content is None:
                raise AssertionError(f"{member.name} is a regular file and has content")
            with content, (home / path.name).open("wb") as copy:
                shutil.copyfileobj(content, copy)
    return list(homes.values())
