"""Results that are kept and repeated."""
