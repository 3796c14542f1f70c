"""Use of a finished model: rows in, predictions out, and the model as a program that needs none of this package."""

from __future__ import annotations
