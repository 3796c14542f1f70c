"""The models of the product, by name."""

from __future__ import annotations

from selmix.models.config import MODELS, ModelConfig, build_model

__all__ = ["MODELS", "ModelConfig", "build_model"]
