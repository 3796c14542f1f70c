"""Intervals of metrics, paired comparisons and selection scores: the arithmetic behind verdicts and rankings."""
