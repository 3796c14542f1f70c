"""From a specification to data, models and selection rules."""
