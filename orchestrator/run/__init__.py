"""One launch, from its lease to its verdict."""
