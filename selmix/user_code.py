"""User-defined functions, named ``module:function`` in a sweep file."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any


def is_reference(name: str) -> bool:
    """True if a name refers to a user-defined function, ``package.module:function``."""
    return ":" in name


def of_matrix_alone(function: Callable[..., Any], context: Any) -> Callable[[Any], Any]:
    """A user's function of the confusion matrix, with its context bound where it takes one.

    The context is what a parameter named ``context`` gets, or the second one that has no default; a default of the
    user's own is a setting and stays.

    Args:
        function: of the matrix, or of the matrix and the context.
        context: to bind.
    """
    function = _without_exit(function)
    try:
        _, *others = inspect.signature(function).parameters.values()
    # Built-in functions need not have a signature; they know nothing of a context.
    except ValueError:
        return function
    if any(other.name == "context" for other in others):
        return lambda confusion: function(confusion, context=context)
    starred = (
        inspect.Parameter.VAR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.KEYWORD_ONLY,
    )
    if others and others[0].default is others[0].empty and others[0].kind not in starred:
        return lambda confusion: function(confusion, context)
    return function


def _without_exit(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, of which ``sys.exit`` is an error like any other: it must not end the program in silence."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except SystemExit as error:
            raise RuntimeError(f"it called sys.exit({'' if error.code is None else error.code})") from error

    return called


def is_less_better(function: Callable[..., Any]) -> bool:
    """True if a user's function is to be minimised: it has an attribute ``lower_is_better`` that is true."""
    return bool(getattr(function, "lower_is_better", False))


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
    # A user's module may raise anything while it is imported, or end the program, as a script does.
    except (Exception, SystemExit) as error:
        raise ValueError(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from error
    function: Any = getattr(module, attribute, None)
    if not callable(function):
        names = [n for n, v in vars(module).items() if inspect.isfunction(v) and not n.startswith("_")]
        raise ValueError(f"{module_name} has no function {attribute!r}; it has {', '.join(names) or 'none'}")
    return function  # type: ignore[no-any-return]
