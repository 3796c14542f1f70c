"""The sweep files that ship with selmix, as package data."""
