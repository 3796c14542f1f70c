"""The data sets of the product, by name; their configurations' fields are the keys of a sweep file's ``data``."""

from __future__ import annotations

from typing import Any, Protocol

from selmix.data.archives import OfficialFiles
from selmix.data.cifar import CifarConfig
from selmix.data.digits import DigitsConfig
from selmix.data.files import ImageFolderConfig, ImageListConfig
from selmix.data.gaussians import GaussiansConfig
from selmix.data.parquet import ParquetConfig
from selmix.data.splits import Split, SweepData
from selmix.data.stl10 import StlConfig

__all__ = [
    "DATA",
    "DataConfig",
    "Split",
    "SweepData",
    "build_data_config",
    "has_groups",
    "official_files",
    "unlabelled_key",
]


class DataConfig(Protocol):
    """Where data come from and how much of each split."""

    @property
    def name(self) -> str: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def input_shape(self) -> tuple[int, ...]: ...
    def load(self) -> SweepData:
        """Train, feedback and select."""

    def load_test(self) -> Split:
        """The test split, for those who open it."""


DATA: dict[str, type[Any]] = {
    "digits": DigitsConfig,
    "gaussians": GaussiansConfig,
    "parquet": ParquetConfig,
    "cifar": CifarConfig,
    "stl10": StlConfig,
    "image_folder": ImageFolderConfig,
    "image_list": ImageListConfig,
}


def unlabelled_key(name: str) -> str | None:
    """The key that says how many unlabelled samples a data set has; None where it never has any."""
    key: str | None = getattr(DATA.get(name), "unlabelled_key", None)
    return key


def has_groups(config: DataConfig) -> bool:
    """True if the data have a group attribute.

    Raises:
        ValueError: a file that says so cannot be read.
    """
    return bool(getattr(config, "group_names", ()))


def official_files(config: DataConfig) -> OfficialFiles | None:
    """The files that a data set's official archives bring; None for data without such archives."""
    official: OfficialFiles | None = getattr(config, "official", None)
    return official


def build_data_config(name: str, **keys: Any) -> DataConfig:
    """The configuration of a data set.

    Raises:
        ValueError: no such data set, or what its configuration refuses, one problem a line.
        TypeError: a key that the data set does not have.
    """
    if name not in DATA:
        raise ValueError(f"data.name: must be one of {', '.join(DATA)}, got {name!r}")
    config: DataConfig = DATA[name](**keys)
    return config
