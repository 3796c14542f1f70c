"""The data sets of the product, by name; their configurations' fields are the keys of a sweep file's ``data``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from selmix.data.archives import OfficialFiles, PackagedFiles
from selmix.data.arrays import array_data, frame_data, from_arrays, from_frame, write_table
from selmix.data.cifar import CifarConfig
from selmix.data.digits import DigitsConfig
from selmix.data.fashion_mnist import FashionMnistConfig
from selmix.data.files import ImageFolderConfig, ImageListConfig
from selmix.data.gaussians import GaussiansConfig
from selmix.data.parquet import ParquetConfig
from selmix.data.preprocess import Preprocess
from selmix.data.shipped import FashionSmallConfig
from selmix.data.splits import Split, SweepData
from selmix.data.stl10 import StlConfig
from selmix.files import with_paths_expanded

__all__ = [
    "DATA",
    "FIELD_OF_KEY",
    "DataConfig",
    "Split",
    "SweepData",
    "array_data",
    "as_fields",
    "build_data_config",
    "doubts_of",
    "folder_of_files",
    "frame_data",
    "from_arrays",
    "from_frame",
    "has_groups",
    "notes_of",
    "official_files",
    "preprocess_of",
    "refuses_duplicates",
    "unlabelled_key",
    "write_table",
]


class DataConfig(Protocol):
    """Configuration of a data set: its source, and the size of each split.

    Attributes:
        name: key of DATA.
        class_names: K texts, in the order of the labels.
        input_shape: of one sample, without the batch.
    """

    # Properties, not plain attributes: frozen dataclasses and class variables cannot be assigned to.
    @property
    def name(self) -> str: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def input_shape(self) -> tuple[int, ...]: ...
    def load(self) -> SweepData:
        """Load train, feedback and select."""

    def load_test(self) -> Split:
        """Load the test split, kept apart from the data that a sweep sees."""


DATA: dict[str, type[Any]] = {
    "digits": DigitsConfig,
    "gaussians": GaussiansConfig,
    "parquet": ParquetConfig,
    "cifar": CifarConfig,
    "stl10": StlConfig,
    "fashion_mnist": FashionMnistConfig,
    "fashion_small": FashionSmallConfig,
    "image_folder": ImageFolderConfig,
    "image_list": ImageListConfig,
}


FIELD_OF_KEY = {"class_names": "class_order"}
"""Keys of a sweep file whose field has another name: every data set has class names, the key gives their order."""


def preprocess_of(config: DataConfig) -> Preprocess | None:
    """Preprocessing of a data set's images, which the model decides; None where there are none to be decoded.

    Raises:
        ValueError: the file that says what the data are cannot be read.
    """
    steps: Preprocess | None = getattr(config, "preprocess", None)
    return steps


def unlabelled_key(name: str) -> str | None:
    """Key with the number of unlabelled samples of a data set; None where it never has any."""
    # An unknown name has no key either; build_data_config reports it.
    key: str | None = getattr(DATA.get(name), "unlabelled_key", None)
    return key


def has_groups(config: DataConfig) -> bool:
    """True if the data have a group attribute.

    Raises:
        ValueError: the file that holds the groups cannot be read.
    """
    # Optional in a configuration; Parquet reads its file for it, hence the error.
    return bool(getattr(config, "group_names", ()))


def notes_of(config: DataConfig) -> list[str]:
    """Notes on what was done to read the data and to divide them, one line each; the files are read for it.

    Raises:
        ValueError: the data cannot be read.
    """
    return list(getattr(config, "notes", ()))


def doubts_of(config: DataConfig) -> list[str]:
    """Doubts of a configuration about its own data, one line each; raises as :func:`notes_of`."""
    return list(getattr(config, "data_warnings", ()))


def refuses_duplicates(config: DataConfig) -> bool:
    """True if no sample of test may be in another split too.

    Published data sets are what they are, and everybody measures on them: they have no key for it, and are reported.
    """
    return not getattr(config, "allow_duplicates", True)


def folder_of_files(config: DataConfig) -> Path | None:
    """Folder of the images of a table that holds their paths alone, which trials read; None for all other data.

    Raises:
        ValueError: the table cannot be read.
    """
    folder: Path | None = getattr(config, "folder_of_files", None)
    return folder


def official_files(config: DataConfig) -> OfficialFiles | PackagedFiles | None:
    """Files that a data set's official archives or its package bring; None for data without such files."""
    official: OfficialFiles | PackagedFiles | None = getattr(config, "official", None)
    return official


def build_data_config(name: str, **keys: Any) -> DataConfig:
    """Build the configuration of a data set.

    Args:
        name: key of DATA.
        **keys: fields of its configuration.
    Raises:
        ValueError: no such data set, or fields out of range, one problem per line.
        TypeError: a key that the data set does not have.
    """
    if name not in DATA:
        raise ValueError(f"data.name: must be one of {', '.join(DATA)}, got {name!r}")
    config: DataConfig = DATA[name](**with_paths_expanded(as_fields(keys)))
    return config


def as_fields(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a sweep file's ``data`` under the names of the configuration's fields."""
    return {FIELD_OF_KEY.get(key, key): value for key, value in keys.items()}
