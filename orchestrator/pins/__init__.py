"""Pins: results that are kept and reproduced."""
