"""Official archives of data sets: which files they hold, and their extraction to where a configuration looks."""

from __future__ import annotations

import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class OfficialFiles:
    """What a data set's folder must hold, and the archives that hold it.

    Attributes:
        dataset: official name. folder: where the files are looked for.
        archives: archive's file name -> the files that it brings; any one of them does.
    """

    dataset: str
    folder: Path
    archives: dict[str, tuple[str, ...]]

    @property
    def is_ready(self) -> bool:
        """Whether all the files of one archive lie in the folder."""
        return any(all((self.folder / f).is_file() for f in files) for files in self.archives.values())

    def prepare(self) -> Path | None:
        """Extract the first archive that lies in or beside the folder.

        Members are read under tarfile's ``data`` filter into a temporary folder on the same disk; then the files that
        are needed are renamed into place, one by one, so that an extraction that is cut off is done again.

        Returns:
            The archive; None where the files are there already.
        Raises:
            ValueError: no archive (the message says which to get and where to put it), or one that is damaged or
                lacks files. OSError: the folder cannot be written.
        """
        if self.is_ready:
            return None
        for name, files in self.archives.items():
            for place in (self.folder, self.folder.parent):
                if (place / name).is_file():
                    self._extract(place / name, files)
                    return place / name
        raise ValueError(
            f"{self.folder}: must hold the files of {self.dataset}, there are none; get its official archive, "
            f"{' or '.join(self.archives)}, from the data set's home page and put it in {self.folder.parent}"
        )

    def _extract(self, archive: Path, files: tuple[str, ...]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".extracting-", dir=self.folder) as scratch:
            try:
                with tarfile.open(archive) as opened:
                    opened.extractall(scratch, filter="data")
            except (
                tarfile.TarError,
                EOFError,
                OSError,
            ) as error:  # gzip raises the last two for damaged files
                raise ValueError(
                    f"{archive}: must be a whole, safe archive of {self.dataset}: {error}"
                ) from error
            homes = {path.parent for path in Path(scratch).rglob(files[0]) if path.is_file()}
            whole = [home for home in sorted(homes) if all((home / f).is_file() for f in files)]
            if not whole:
                raise ValueError(
                    f"{archive}: must hold {', '.join(files)} of {self.dataset} in one folder, it does not"
                )
            for file in files:
                (whole[0] / file).replace(self.folder / file)
