"""Sweep files: their keys, types and meaning, with every problem reported at once."""
