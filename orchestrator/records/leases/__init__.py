"""Leases: one driver at a time on a runs folder, on a disk or in a store."""
