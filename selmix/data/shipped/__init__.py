"""Data that come with the package: small real images, so that a first run tells things apart."""

from __future__ import annotations

from selmix.data.shipped.fashion_small import FashionSmallConfig

__all__ = ["FashionSmallConfig"]
