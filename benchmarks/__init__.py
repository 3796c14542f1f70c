"""Measurements: ratios against a named alternative in the same run. They open the test split."""
