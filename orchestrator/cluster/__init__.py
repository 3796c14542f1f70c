"""Ray for a sweep, on this machine or on a cluster: addresses, nodes, capacity, code and jobs."""
