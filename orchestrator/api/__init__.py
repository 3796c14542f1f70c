"""Sweeps as objects for a notebook, from their file, a dictionary or arrays to the winner as a model."""
