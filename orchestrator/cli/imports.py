"""Import of torch and the modules that use it, inside the verbs that need it."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def heavy_imports() -> Iterator[None]:
    """Import with the garbage collector off, which saves a tenth of the seconds that torch takes.

    Modules make half a million objects that live as long as the process: a collection would go through them in vain.
    """
    # Its state is restored and not just switched on: a test or a host process may run without it.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
