"""What lies on disk or in a bucket: a sweep's own records, its lease and its logs."""
