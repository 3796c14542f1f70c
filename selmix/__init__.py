"""SelMix: selective mixup fine-tuning for metrics that do not decompose over samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selmix.pinned import load_pin

__version__ = "0.1.0"
METHOD = 1
"""Version of the method's arithmetic, raised by every change of the bits of a fit or of a confidence bound."""

__all__ = ["METHOD", "__version__", "load_pin"]


def __getattr__(name: str) -> Any:
    # Imported on demand: the command line reads the version from here and must not wait for torch.
    if name == "load_pin":
        from selmix.pinned import load_pin

        return load_pin
    raise AttributeError(f"module 'selmix' has no attribute {name!r}")
