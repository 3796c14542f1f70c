"""The start model of every trial, under the name that Python code imports it by."""

from __future__ import annotations

from selmix.run.start_model import Base

__all__ = ["Base"]
