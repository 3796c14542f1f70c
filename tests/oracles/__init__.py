"""Slow, plain versions of the numerical code, written from the definitions."""
