"""Records of a sweep on disk or in a bucket: its documents, its lease and its logs."""
