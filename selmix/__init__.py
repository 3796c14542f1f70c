"""SelMix: selective mixup fine-tuning for objectives that do not decompose over samples."""

__version__ = "0.1.0"
