"""Folder of a model as MLflow has it: flavours, signature and an example beside the files that were pinned."""

from __future__ import annotations

import contextlib
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from orchestrator.tracking.client import quieten_mlflow

LOADER = "selmix.serving.served"
"""Module that loads the folder for pyfunc: it must be installed where the model is loaded."""

PROGRAM = "program"
"""Folder of the exported program within the model's, ``program/model.pt2``, for the flavour of PyTorch."""

Kind = Literal["image", "vector", "number", "text", "whole"]
"""Content of a column: bytes of an image file, a list of numbers, a number, a text, a whole number."""


@dataclass(frozen=True)
class ModelFolder:
    """Content of the folder.

    Attributes:
        files: name -> file that is copied into it.
        program: exported program (``.pt2``) for the flavour of PyTorch; None to leave that out.
        inputs: name -> content of each column that the model takes.
        outputs: name -> content of each column that it gives.
        example: rows of the inputs, name -> values.
        packages: distributions that loading the model needs, without this one.
        torch_version: that the program was made with.
        metadata: plain values that are shown beside the model.
    """

    files: Mapping[str, Path]
    program: Path | None
    inputs: Mapping[str, Kind]
    outputs: Mapping[str, Kind]
    example: Mapping[str, Sequence[Any]]
    packages: Sequence[str]
    torch_version: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def write_model_folder(path: Path, content: ModelFolder) -> None:
    """Write the folder of a model.

    Args:
        path: folder to make.
        content: of the folder.
    """
    quieten_mlflow()
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import Model
    from mlflow.models.signature import ModelSignature

    model = Model(metadata=dict(content.metadata))
    with _quiet():
        pyfunc.save_model(
            str(path), loader_module=LOADER, mlflow_model=model, pip_requirements=requirements(content.packages),
            signature=ModelSignature(_schema(content.inputs), _schema(content.outputs)),
            input_example=pd.DataFrame(dict(content.example)),
        )  # fmt: skip
        for name, file in content.files.items():
            shutil.copyfile(file, path / name)
        if content.program is not None:
            (path / PROGRAM).mkdir()
            shutil.copyfile(content.program, path / PROGRAM / "model.pt2")
            # As mlflow.pytorch.save_model writes it, which itself would not take a signature of columns.
            model.add_flavor("pytorch", model_data=PROGRAM, pytorch_version=content.torch_version, code=None)
        model.model_size_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        model.save(str(path / "MLmodel"))


def requirements(packages: Sequence[str]) -> list[str]:
    """Pinned requirements of packages that are installed here.

    This package is not among them: it is on no index, and another one of its name there would be installed instead.
    """
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in packages]


def _schema(columns: Mapping[str, Kind]) -> Any:
    from mlflow.types.schema import Array, ColSpec, DataType, Schema

    kinds: dict[Kind, Any] = {
        "image": DataType.binary, "vector": Array(DataType.double), "number": DataType.double,
        "text": DataType.string, "whole": DataType.long,
    }  # fmt: skip
    return Schema([ColSpec(kinds[kind], name) for name, kind in columns.items()])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """MLflow advises on whole numbers, type hints and examples at every model."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
