"""Who won, by how much, against whom."""
