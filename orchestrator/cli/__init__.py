"""Command line: parses arguments and calls the verbs."""
