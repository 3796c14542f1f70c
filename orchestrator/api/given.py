"""Data that Python gives a sweep: kept as a table in the folder of the sweep, so that all that follows reads a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import PreflightError, SpecError, UsageError
from orchestrator.files import writing
from orchestrator.records.folder import RunFolder

IMAGE = "image"


@dataclass(frozen=True, eq=False)
class GivenData:
    """A table in memory, and how it is read.

    Attributes:
        table: of pyarrow.
        keys: keys of ``data`` of a sweep file, without ``name`` and ``path``.
    """

    table: Any
    keys: Mapping[str, Any] = field(default_factory=dict)

    def section(self, path: Path) -> dict[str, Any]:
        """The section ``data`` of a sweep file, once the table lies at ``path``."""
        return {"name": "parquet", "path": str(path), **self.keys}

    def write(self, path: Path) -> None:
        """Write the table, if it is not there.

        Raises:
            PreflightError: the file cannot be written.
        """
        from selmix.data.arrays import save_table

        # By its name a file that is there has this content.
        if not path.is_file():
            with writing(path):
                save_table(path, self.table)

    @contextmanager
    def kept(self, folder: RunFolder) -> Iterator[Path]:
        """Keep the table in the folder of a sweep, for as long as the sweep is one of this table.

        Args:
            folder: of a sweep that need not exist.
        Raises:
            UsageError: the folder lies in an object store.
            PreflightError: it cannot be written.
        """
        from selmix.data.arrays import table_digest

        if folder.store.filesystem() is not None:
            raise UsageError(
                f"{folder.shown}: arrays and data frames are kept in a runs folder on this machine; write a table with "
                "selmix.data.write_table where the cluster sees it, and name it as data.path"
            )
        path = folder.arrays_path(table_digest(self.table)).absolute()
        self.write(path)
        try:
            yield path
        finally:
            # A launch that was refused leaves nothing behind.
            if folder.load_spec().get("data", {}).get("path") != str(path):
                path.unlink(missing_ok=True)
                for home in (path.parent, folder.path):
                    if home.is_dir() and not any(home.iterdir()):
                        home.rmdir()


GIVEN = "the data given"


@contextmanager
def naming_the_data(path: Path | None) -> Iterator[None]:
    """Have errors speak of the data that were given, and not of the table that they are kept in.

    Args:
        path: of the table; None where the data are not given by Python.
    """
    try:
        yield
    except SpecError as error:
        if path is None or str(path) not in str(error):
            raise
        raise SpecError([text.replace(str(path), GIVEN) for text in error.problems]) from error
    except (UsageError, PreflightError) as error:
        if path is None or str(path) not in str(error):
            raise
        raise type(error)(str(error).replace(str(path), GIVEN)) from error


def data_of_arrays(inputs: Any, labels: Any, keys: Mapping[str, Any]) -> GivenData:
    """Arrays as the data of a sweep.

    Images keep their size where they are square, unless ``size`` or ``resize`` are given: as
    :func:`selmix.data.from_arrays` takes them.

    Args:
        inputs: as of :func:`selmix.data.from_arrays`.
        labels: n whole numbers or texts.
        keys: ``groups``, ``units``, ``split`` and ``class_names`` as of :func:`selmix.data.array_data`; all others are
            keys of ``data`` of a sweep file.
    Raises:
        PreflightError: the arrays cannot be data.
    """
    from selmix.data.arrays import array_table

    of_rows = {key: keys[key] for key in ("groups", "units", "split", "class_names") if key in keys}
    others = {key: value for key, value in keys.items() if key not in of_rows}
    try:
        table = array_table(inputs, labels, **of_rows)
    except ValueError as error:
        raise PreflightError(f"data: {error}") from error
    named = {key: key for key in ("group", "unit", "split") if key in table.column_names}
    if IMAGE in table.column_names and not {"size", "resize"} & others.keys():
        side = _side_of(table[IMAGE][0].as_py()["bytes"])
        others |= {} if side is None else {"size": side, "resize": side}
    return GivenData(table, named | others)


def data_of_frame(frame: Any, keys: Mapping[str, Any]) -> GivenData:
    """A data frame as the data of a sweep.

    Args:
        frame: as of :func:`selmix.data.from_frame`.
        keys: of ``data`` of a sweep file: ``label``, ``features``, ``group``, ....
    Raises:
        PreflightError: it is no frame, or a column holds values of several types.
    """
    from selmix.data.arrays import frame_table

    try:
        return GivenData(frame_table(frame), dict(keys))
    except (TypeError, ValueError) as error:
        raise PreflightError(f"data: {error}") from error


def _side_of(content: bytes) -> int | None:
    """Side of a square image in pixels; None of another one."""
    import io

    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return image.width if image.width == image.height else None
