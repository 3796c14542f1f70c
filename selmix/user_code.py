"""Functions of the user's own, named ``module:function`` in a sweep file."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selmix.weights import bytes_digest


def is_reference(name: str) -> bool:
    """Whether a name means a function of the user's, ``package.module:function``."""
    return ":" in name


def load_function(reference: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names.

    Raises:
        ValueError: the module cannot be imported (with its own error), or has no such function.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute.isidentifier():
        raise ValueError(f"must read package.module:function, got {reference!r}")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise ValueError(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from error
    function: Any = getattr(module, attribute, None)
    if not callable(function):
        names = [n for n, v in vars(module).items() if inspect.isfunction(v) and not n.startswith("_")]
        raise ValueError(f"{module_name} has no function {attribute!r}; it has {', '.join(names) or 'none'}")
    return function  # type: ignore[no-any-return]


def source_digest(reference: str) -> str | None:
    """``sha256:...`` of the file that a function is written in; None where it has none."""
    try:
        path = inspect.getsourcefile(inspect.unwrap(load_function(reference)))
    except TypeError:
        return None
    return None if path is None else bytes_digest(Path(path).read_bytes())
