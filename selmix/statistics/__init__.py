"""Intervals, comparisons and what ranks: the verdict's arithmetic."""
