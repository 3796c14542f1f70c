"""Importing torch and what stands on it, inside the verbs that need it."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def heavy_imports() -> Iterator[None]:
    """Import without looking for garbage meanwhile: modules make half a million objects, and none of them is any.

    Saves a tenth of the seconds that torch takes.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
