"""Results of a sweep: winner, finalists, and the verdict against the best baseline."""
