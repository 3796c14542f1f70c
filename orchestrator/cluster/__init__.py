"""Where a sweep runs: this machine or a Ray cluster, and what it has."""
