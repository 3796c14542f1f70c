"""Launch of a sweep, from its lease to its verdict."""
