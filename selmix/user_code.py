"""User-defined functions, named ``module:function`` in a sweep file."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any


def is_reference(name: str) -> bool:
    """True if a name refers to a user-defined function, ``package.module:function``."""
    return ":" in name


def load_function(reference: str) -> Callable[..., Any]:
    """Import the function that ``package.module:function`` names.

    Raises:
        ValueError: the reference is malformed, the module cannot be imported (the message has its own error), or it
            has no such function.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute.isidentifier():
        raise ValueError(f"must read package.module:function, got {reference!r}")
    try:
        module = importlib.import_module(module_name)
    # A user's module may raise anything while it is imported.
    except Exception as error:
        raise ValueError(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from error
    function: Any = getattr(module, attribute, None)
    if not callable(function):
        names = [n for n, v in vars(module).items() if inspect.isfunction(v) and not n.startswith("_")]
        raise ValueError(f"{module_name} has no function {attribute!r}; it has {', '.join(names) or 'none'}")
    return function  # type: ignore[no-any-return]
