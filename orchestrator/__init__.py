"""From a sweep file to a verdict: the ground floor of words that every package below uses."""
